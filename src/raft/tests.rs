//! Tests.

mod checks;
mod cluster;
mod forge;
mod random;
mod report;
mod script;

/// Declares one test for each script, and their list.
macro_rules! scripts {
    ($($name:ident)*) => {
        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { script::check(stringify!($name)); })*
    };
}

scripts! {
    first_try
}
