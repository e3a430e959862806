//! `readwright check FILE`: reads the configuration and the files it names, and nothing else.

use super::{CheckArguments, Failure, output};
use crate::config::resolve;

pub(super) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    resolve::load(Some(&arguments.file), &arguments.set).map_err(Failure::Configuration)?;
    output::print(format!("{}: no problems\n", arguments.file.display()).as_bytes())
}
