//! `readwright check FILE`: reads the configuration and the files it names, and nothing else.

use super::{CheckArguments, Failure, configuration, output};

pub(super) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    configuration::load(Some(&arguments.file), &arguments.set)?;
    output::print(format!("{}: no problems\n", arguments.file.display()).as_bytes())
}
