//! What both programs say to people in the same way: complaints, progress, tables, and wrong usage in
//! one line.

mod complaint;
mod progress;
mod table;
mod usage;

pub(crate) use complaint::complain;
pub(crate) use progress::Progress;
pub(crate) use table::write_table;
pub(crate) use usage::one_line;
