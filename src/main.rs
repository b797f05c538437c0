//! The binary: hands the arguments to the command they name.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    wecom_dirsync::cli::main()
}
