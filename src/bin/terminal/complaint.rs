//! What goes to stderr.

use std::fmt::Display;
use std::io::{self, Write};

/// One line on stderr. If nobody reads that any more the line is lost, and nothing else: the exit status
/// tells what came of it, and `eprintln` would panic.
pub(crate) fn complain(line: impl Display) {
    _ = writeln!(io::stderr(), "{line}");
}
