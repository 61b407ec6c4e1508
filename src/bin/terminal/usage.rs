//! Wrong usage.

use clap::error::ErrorKind;

/// What clap says on several lines, in one: without the usage and the hints behind it, which the
/// program gives in its own words.
pub(crate) fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a subcommand is missing".to_owned(); // all that clap has to say is its help
    }
    let text = error.to_string();
    let is_hint = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more information");
    let lines = text.lines().map(str::trim).take_while(|line| !is_hint(line));
    let words: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    words.join(" ").replace(" tip: ", "; ").trim_start_matches("error: ").trim_end_matches('.').to_owned()
}
