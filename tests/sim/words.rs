//! Messages in few words, for the readable log.

use kvstore::wire::peer::{AppendResult, Message};

/// A message's name and fields, without the content of entries.
pub(crate) fn of_message(message: &Message) -> String {
    match message {
        Message::AppendEntries(append) => format!(
            "AppendEntries term {} prev {}@{} {} entries commit {}",
            append.term,
            append.prev_log_index,
            append.prev_log_term,
            append.entries.len(),
            append.leader_commit
        ),
        Message::AppendEntriesResponse(response) => match response.result {
            AppendResult::Match { match_index } => {
                format!("match term {} index {match_index}", response.term)
            }
            AppendResult::Conflict { prev_log_index, hint_index, hint_term } => {
                format!("conflict term {} at {prev_log_index}, hint {hint_index}@{hint_term}", response.term)
            }
        },
        Message::Heartbeat(beat) => {
            format!("Heartbeat term {} commit {} round {}", beat.term, beat.commit, beat.round)
        }
        other => format!("{other:?}"),
    }
}
