//! `readwright run`: the proxy, until it is told to stop.

use super::{Failure, RunArguments, configuration, output};
use crate::{server, telemetry};

pub(super) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let config = configuration::load(arguments.config.as_deref(), &arguments.set)?;
    if arguments.check {
        return output::print(b"no problems\n");
    }
    telemetry::logging::start(&config.log.filter, config.log.json)
        .map_err(|error| Failure::Failed(error.to_string()))?;
    server::run(config).map_err(|error| Failure::Failed(configuration::chain(&error)))
}
