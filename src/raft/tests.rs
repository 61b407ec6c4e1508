//! The core, tested: golden scripts, random faults, hostile input.
//!
//! A script (`testscripts/`, one test each) is a list of commands, each followed by what the cluster
//! did, as a referee would report it: see `script.rs` for the commands. After an intended change,
//! `UPDATE_GOLDEN=1 cargo test --lib raft::tests` rewrites the reports; commit only differences that
//! you understand. Around every call into a core, `invariants::check_step` and the cluster-wide
//! properties of `checks.rs` must hold. `random.rs` says how a failure is replayed.
//!
//! # Where each rule is tested
//!
//! The paper's Figure 2 and sections 5 and 8:
//!
//! | rule | script, or test |
//! |---|---|
//! | persistent state, stable before answering | `election_vote_leaves_after_it_is_durable`, `append_is_acknowledged_after_the_disk_and_once_a_turn`, `term_not_yet_durable_is_not_spoken_in`, `restart_node_begins_as_follower_with_its_term_and_vote` |
//! | AppendEntries 1: stale term | `term_stale_request_is_refused_with_the_current_term` |
//! | AppendEntries 2: no match | `append_without_a_match_is_refused` |
//! | AppendEntries 3, 4: conflict, append | `append_conflict_removes_it_and_all_that_follow`, `append_twice_or_in_part_or_empty_removes_nothing` |
//! | AppendEntries 5: commit | `append_commits_no_further_than_its_last_entry` |
//! | RequestVote 1: stale term | `term_stale_request_is_refused_with_the_current_term` |
//! | RequestVote 2: free and up to date | `election_each_server_votes_once_a_term_first_come_first_served`, `vote_for_a_candidate_with_an_older_log_is_refused`, `vote_requested_from_a_pre_candidate_is_granted` |
//! | all servers: apply | `replicate_entry_stored_on_a_majority_is_committed_and_applied`, `log::tests::apply_gives_each_committed_entry_once_and_in_order` |
//! | all servers: higher term (5.1) | `term_higher_in_any_message_is_adopted`, `term_that_changes_twice_in_one_turn_promises_only_the_last` |
//! | followers: timeout (5.2) | `election_follower_without_a_leader_for_a_timeout_asks_for_votes`, `election_voter_waits_a_whole_timeout`, `election_timer_of_a_node_that_grants_no_vote_goes_on`, `append_refused_counts_as_hearing_the_leader` |
//! | candidates: start election (5.2) | `election_vote_request_leaves_after_the_own_vote_is_durable` |
//! | candidates: majority (5.2) | `election_needs_a_majority_of_the_full_cluster`, `election_winner_sends_heartbeats_at_once`, `election_votes_that_come_after_a_retry_began_still_count` |
//! | candidates: another leader (5.2) | `election_candidate_that_hears_the_leader_of_its_term_follows` |
//! | candidates: split vote, timeout (5.2, 5.6) | `election_split_vote_is_tried_again_in_a_later_term`, `election_patience_begins_when_the_requests_leave`, `random::election_with_disks_slower_than_patience_is_won_in_few_terms` |
//! | leaders: append, reply when applied (5.3) | `replicate_entry_stored_on_a_majority_is_committed_and_applied`, `propose_beyond_the_uncommitted_limit_is_refused_until_commitment` |
//! | leaders: send from nextIndex, retry (5.3) | `replicate_lost_entries_are_sent_again_for_ever`, `replicate_full_window_that_was_lost_is_found_out`, `replicate_batch_within_its_limit_is_contiguous`, `replicate_paused_for_a_follower_without_a_link` |
//! | leaders: decrement nextIndex (5.3, Figure 7) | `replicate_conflict_needs_one_round_trip_for_each_term`, `replicate_every_follower_of_figure_7_comes_to_equal_the_leader`, `replicate_late_refusal_or_acknowledgement_changes_nothing`, `commit_ignores_acknowledgements_of_an_earlier_term` |
//! | leaders: commit the own term (5.4.2, Figure 8) | `commit_of_earlier_terms_follows_from_one_of_the_own_term`, `commit_of_the_own_term_keeps_rivals_from_being_elected` |
//! | election restriction (5.4.1) | `vote_for_a_candidate_with_an_older_log_is_refused` |
//! | followers and candidates crash (5.5) | `replicate_follower_that_restarts_is_sent_what_it_lacks`, `append_twice_or_in_part_or_empty_removes_nothing` |
//! | Figure 3, the five properties (5.4.3) | `checks.rs` around every call; `append_from_a_second_leader_of_a_term_is_dropped`, `append_that_contradicts_what_is_committed_is_dropped` |
//! | client finds the leader (8) | `propose_to_a_follower_is_refused` |
//! | no-op, reads (8) | `read_before_an_entry_of_the_own_term_is_committed_waits`, `read_waits_for_a_round_that_begins_after_it`, `read_is_not_confirmed_by_an_answer_to_a_round_of_an_earlier_term` |
//!
//! The thesis:
//!
//! | section | script |
//! |---|---|
//! | 3.10 leadership transfer | `transfer_*` |
//! | 4.2.3 disruptive servers | `loyalty_*`, `transfer_mark_moves_loyal_voters` |
//! | 6.2 routing, check-quorum | `quorum_*`, `slow_links::leader_whose_links_are_full_of_entries_stays`, `propose_to_a_follower_is_refused` |
//! | 6.3 exactly once | the core never repeats nor drops an entry: `checks.rs`; sessions are the state machine's |
//! | 6.4 read-only queries | `read_*` |
//! | 9.6 pre-vote | `pre_vote_*`, `higher_term_of_a_follower_deposes_the_leader_once` |
//! | 10.2.1 the leader's own disk | `replicate_leader_counts_itself_only_when_its_disk_has_it`, `replicate_majority_without_the_leaders_disk_commits` |
//!
//! Our rules of fail-over, and the traps that others fell into (names of real tests; those that are not
//! scripts are in `src/server/`, `tests/cluster/`, `tests/faults/`, `tests/replica/` or `tests/sim/`):
//!
//! | rule, or trap | script, or test |
//! |---|---|
//! | a lost link is no evidence; a refused redial or a later boot is | `evidence_is_needed_not_only_a_lost_link`, `redial_that_is_refused_proves_death_once`, `redial_answered_by_a_later_boot_proves_death`, `node_that_comes_back_with_a_later_boot_is_linked_again_and_its_death_is_known` |
//! | a dying listener accepts and resets | `dying_node_that_still_accepts_is_found_dead_once_it_refuses`, `redial_closed_early_is_repeated_at_once_then_often_then_seldom` |
//! | survivors that notice together | `evidence_of_a_dead_leader_begins_a_pre_vote_one_after_the_other` |
//! | evidence is void once the leader speaks | `evidence_is_void_once_the_leader_speaks` |
//! | resets of a middlebox taken for a death (V15) | `link_of_the_leader_reset_every_50_ms_causes_no_election`, `links_reset_all_the_time_cause_no_election`, `redial_answered_by_the_same_boot_ends_the_suspicion` |
//! | a later boot is believed only of the node itself | `forged_boot_is_refused_and_the_true_one_is_linked_afterwards`, `claim_waits_for_the_node_that_it_names_and_changes_nothing_meanwhile` |
//! | unread bytes, of whole messages or not, and pauses of one's own | `unread_bytes_of_the_leader_hold_the_timer_back`, `frame_that_goes_on_arriving_counts_as_unread_until_it_stops`, `frame_that_drips_counts_as_unread_for_a_while_only`, `entries_that_take_longer_to_arrive_than_a_timeout_cause_no_election`, `follower_stopped_for_longer_than_a_timeout_causes_no_election` |
//! | loyalty and its two exceptions | `loyalty_*`, `transfer_mark_moves_loyal_voters`, `held_pre_vote_*` |
//! | partial links, one-way links (V1, V2) | `pre_vote_between_two_links_that_miss_one_is_refused`, `pre_vote_of_a_node_that_was_cut_off_raises_no_term`, `quorum_leader_that_hears_no_majority_gives_way` |
//! | pre-vote and check-quorum block each other (V3); a low term never elects (V4) | `vote_requested_from_a_pre_candidate_is_granted`, `pre_vote_refusal_with_a_higher_term_is_adopted` |
//! | stale pre-vote answers (V5); a grant is no contact (V6) | `pre_vote_answer_of_an_earlier_round_is_not_counted`, `pre_vote_granted_changes_nothing_at_the_voter` |
//! | catch-up without the timer's reset (V7); two elections in a row (V8) | `append_refused_counts_as_hearing_the_leader`, `election_voter_waits_a_whole_timeout` |
//! | votes of strangers (V9) | `vote_of_who_is_no_member_is_not_counted`, `hostile_stranger_is_not_heard` |
//! | mixed versions (V10) | none are: whoever has another version is closed, `nonsense_gets_a_refusal_if_its_header_was_sound_and_is_closed` |
//! | a leader that lost its majority and has the longest log (V11) | `quorum_lost_leader_with_the_longest_log_is_elected_again_or_outvoted` |
//! | one black-holed peer blocks the others (V12) | `heartbeats_to_one_go_on_while_another_takes_nothing`, and the bus's `peer_socket_takes_no_byte_and_the_others_heartbeat_leaves_in_the_same_flush` |
//! | a heartbeat behind more than one AppendEntries | `replicate_window_is_narrow_once_a_heartbeat_waits_long`, `replicate_window_widens_while_heartbeats_are_answered_in_time`, `slow_links::heartbeat_on_a_slow_link_waits_behind_one_append_only` |
//! | patience that drifts into step (V13) | `election_two_that_ask_at_the_same_moment_do_not_stay_in_step`, `random::failover_by_timeout_takes_a_timeout_and_rarely_a_third_election`, `random::failover_with_evidence_takes_a_moment_and_rarely_a_third_election` |
//! | parking: 150 ms and no more, within the client's own time | `request_without_a_leader_is_parked_and_then_refused`, `parked_request_is_refused_well_before_its_client_gives_up`, `request_parked_a_second_time_gains_no_time`, `request_whose_client_gives_up_at_once_is_not_parked` |
//! | parking: served by the next leader, and dies with its connection | `request_parked_until_a_leader_is_elected_is_served`, `parked_request_dies_with_its_connection` |
//! | parking: a leader that its client found silent | `request_that_names_its_leader_silent_is_parked`, `request_that_names_a_silent_leader_of_a_later_term_is_parked`, `request_that_names_the_present_leader_silent_in_an_earlier_term_is_parked` |
//! | parking: bounds | `parked_requests_are_bounded_in_number_too`, `parked_requests_are_bounded_by_their_bytes_too` |
//! | times that overflow (V14) | `quorum_leader_after_weeks_without_a_tick_gives_way_once`, `clocks::core_near_the_end_of_time_does_not_wrap` |
//! | a transfer admits writes (T1), is never cleared (T2), reaches the wrong node (T3) | `transfer_to_a_follower_that_lags_waits_until_it_caught_up`, `transfer_that_takes_too_long_is_given_up`, `transfer_ends_when_the_link_to_its_target_is_lost`, `transfer_that_cannot_be_is_refused`, `transfer_order_of_anybody_but_the_leader_is_ignored` |
//! | an order to campaign that comes late, early, or to a node that dies | `transfer_order_that_comes_late_deposes_nobody_who_is_ahead`, `transfer_order_read_too_early_is_given_again`, `transfer_order_lost_with_a_link_that_was_replaced_is_given_again`, `transfer_order_to_a_pre_candidate_is_obeyed`, `transfer_to_a_follower_that_dies_after_its_order_is_over` |
//! | a transfer fails for loyalty (T4), or stops reads (T5) | `transfer_mark_moves_loyal_voters`, `transfer_mark_is_for_one_term_only`, `transfer_does_not_stop_reads` |
//!
//! Section 7 of the paper, snapshots: `snapshots.rs` has what the core knows of them, `log.rs` the log
//! after its base, and `tests/replica/snapshots.rs` whole nodes.
//!
//! Our own: what proves a death (`evidence_*`, `held_pre_vote_*`, `unread_*`), the founding
//! (`found_*`), clusters of one and two (`alone_*`, `pair_*`), what hostile peers say (`hostile_*`).

mod checks;
mod clocks;
mod cluster;
mod forge;
mod random;
mod report;
mod script;
mod simulation;
mod slow_links;
mod snapshots;

/// Declares one test for each script, and their list.
macro_rules! scripts {
    ($($name:ident)*) => {
        const SCRIPTS: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { script::check(stringify!($name)); })*
    };
}

scripts! {
    term_higher_in_any_message_is_adopted
    term_stale_request_is_refused_with_the_current_term
    term_not_yet_durable_is_not_spoken_in
    term_that_changes_twice_in_one_turn_promises_only_the_last
    restart_node_begins_as_follower_with_its_term_and_vote
    restart_with_a_vote_for_node_zero_has_voted
    restart_with_only_the_founding_entry_elects_and_serves
    restart_ex_leader_learns_of_the_higher_term
    restart_ex_leader_elected_again_steps_down_only_once
    election_follower_without_a_leader_for_a_timeout_asks_for_votes
    election_vote_request_leaves_after_the_own_vote_is_durable
    election_vote_leaves_after_it_is_durable
    election_each_server_votes_once_a_term_first_come_first_served
    election_winner_sends_heartbeats_at_once
    election_needs_a_majority_of_the_full_cluster
    election_candidate_that_hears_the_leader_of_its_term_follows
    election_two_that_ask_at_the_same_moment_do_not_stay_in_step
    election_split_vote_is_tried_again_in_a_later_term
    election_votes_that_come_after_a_retry_began_still_count
    election_patience_begins_when_the_requests_leave
    election_voter_waits_a_whole_timeout
    election_timer_of_a_node_that_grants_no_vote_goes_on
    election_timer_of_a_candidate_that_learns_of_a_later_term_goes_on
    election_answer_to_a_pre_vote_does_not_overtake_a_vote
    vote_for_a_candidate_with_an_older_log_is_refused
    vote_requested_from_a_pre_candidate_is_granted
    vote_of_who_is_no_member_is_not_counted
    vote_requested_from_who_knows_the_leader_of_the_term_is_refused
    append_without_a_match_is_refused
    append_conflict_removes_it_and_all_that_follow
    append_twice_or_in_part_or_empty_removes_nothing
    append_commits_no_further_than_its_last_entry
    append_is_acknowledged_after_the_disk_and_once_a_turn
    append_refused_counts_as_hearing_the_leader
    append_that_contradicts_what_is_committed_is_dropped
    append_from_a_second_leader_of_a_term_is_dropped
    heartbeat_is_answered_before_the_disk_and_says_nothing_of_the_log
    heartbeat_that_commits_what_is_not_here_is_dropped
    heartbeats_to_one_go_on_while_another_takes_nothing
    replicate_entry_stored_on_a_majority_is_committed_and_applied
    replicate_leader_counts_itself_only_when_its_disk_has_it
    replicate_majority_without_the_leaders_disk_commits
    replicate_lost_entries_are_sent_again_for_ever
    replicate_full_window_that_was_lost_is_found_out
    replicate_window_widens_while_heartbeats_are_answered_in_time
    replicate_window_is_narrow_once_a_heartbeat_waits_long
    replicate_batch_within_its_limit_is_contiguous
    replicate_conflict_needs_one_round_trip_for_each_term
    replicate_every_follower_of_figure_7_comes_to_equal_the_leader
    replicate_late_refusal_or_acknowledgement_changes_nothing
    replicate_follower_that_restarts_is_sent_what_it_lacks
    replicate_paused_for_a_follower_without_a_link
    commit_of_earlier_terms_follows_from_one_of_the_own_term
    commit_of_the_own_term_keeps_rivals_from_being_elected
    commit_ignores_acknowledgements_of_an_earlier_term
    commit_told_to_a_follower_is_limited_to_what_matches_there
    propose_beyond_the_uncommitted_limit_is_refused_until_commitment
    propose_to_a_follower_is_refused
    read_before_an_entry_of_the_own_term_is_committed_waits
    read_waits_for_a_round_that_begins_after_it
    read_of_a_leader_without_a_majority_is_never_answered
    read_is_not_confirmed_by_an_answer_to_a_round_of_an_earlier_term
    read_of_a_deposed_leader_must_ask_again
    read_on_a_follower_asks_the_leader_once_for_all
    read_on_a_follower_is_not_served_by_an_answer_to_an_earlier_request
    read_on_a_follower_asks_again_when_no_answer_comes
    read_on_a_follower_whose_leader_changed_must_ask_again
    read_asked_of_a_leader_that_gave_way_is_refused_and_the_leader_forgotten
    read_of_a_follower_whose_leader_gives_way_is_refused_at_once
    read_refused_by_another_than_the_leader_still_waits
    read_refused_by_the_leader_of_an_earlier_term_is_no_word_of_this_one
    transfer_to_a_follower_that_is_up_to_date_happens_at_once
    transfer_to_a_follower_that_lags_waits_until_it_caught_up
    transfer_that_takes_too_long_is_given_up
    transfer_ends_when_the_link_to_its_target_is_lost
    transfer_that_cannot_be_is_refused
    transfer_does_not_stop_reads
    transfer_mark_is_for_one_term_only
    transfer_mark_moves_loyal_voters
    transfer_order_of_anybody_but_the_leader_is_ignored
    transfer_of_a_leaving_leader_goes_to_who_matches_furthest
    transfer_that_waits_is_hurried_when_the_leader_leaves
    transfer_order_that_comes_late_deposes_nobody_who_is_ahead
    transfer_order_to_a_pre_candidate_is_obeyed
    transfer_order_read_too_early_is_given_again
    transfer_order_lost_with_a_link_that_was_replaced_is_given_again
    transfer_to_a_follower_that_dies_after_its_order_is_over
    loyalty_follower_that_hears_its_leader_refuses_candidates
    loyalty_leader_with_a_fresh_quorum_refuses_candidates
    quorum_leader_that_hears_no_majority_gives_way
    quorum_leader_that_hears_a_majority_stays
    quorum_leader_whose_appends_are_acknowledged_stays
    quorum_answer_to_an_old_round_says_when_that_began
    quorum_lost_leader_with_the_longest_log_is_elected_again_or_outvoted
    quorum_leader_after_weeks_without_a_tick_gives_way_once
    pre_vote_of_a_node_that_was_cut_off_raises_no_term
    pre_vote_between_two_links_that_miss_one_is_refused
    pre_vote_granted_changes_nothing_at_the_voter
    pre_vote_is_refused_to_an_older_log_or_an_older_term
    pre_vote_refusal_with_a_higher_term_is_adopted
    pre_vote_answer_of_an_earlier_round_is_not_counted
    pre_vote_refused_by_a_majority_ends_the_campaign
    higher_term_of_a_follower_deposes_the_leader_once
    evidence_of_a_dead_leader_begins_a_pre_vote_one_after_the_other
    evidence_is_needed_not_only_a_lost_link
    evidence_is_void_once_the_leader_speaks
    evidence_that_was_void_is_no_cause_of_a_later_election
    evidence_about_anybody_but_the_leader_is_no_cause
    held_pre_vote_is_granted_on_evidence
    held_pre_vote_is_refused_when_the_link_is_back
    held_pre_vote_waits_anew_for_each_lost_link
    held_pre_vote_asked_again_is_answered_once
    held_pre_vote_is_refused_after_ten_milliseconds
    held_pre_vote_is_refused_when_the_leader_speaks
    held_pre_vote_is_answered_when_the_voter_campaigns_itself
    unread_bytes_of_the_leader_hold_the_timer_back
    unread_bytes_of_the_leader_never_shorten_the_patience
    unread_words_lost_with_a_link_that_was_replaced_hold_the_timer_back
    found_lowest_id_campaigns_at_once_and_is_elected
    found_node_before_the_founding_takes_part_in_nothing
    alone_node_is_its_own_majority_once_its_disk_has_it
    pair_of_two_needs_both
    hostile_term_far_beyond_all_others_is_not_adopted
    hostile_stranger_is_not_heard
    hostile_answers_to_what_was_never_asked_are_dropped
    hostile_vote_that_comes_before_the_question_left_is_dropped
}

#[test]
fn scripts_in_the_directory_are_all_played() {
    let directory = std::fs::read_dir(script::directory()).expect("the scripts are there");
    let mut found: Vec<_> = directory.map(|file| file.expect("a file").file_name()).collect();
    let mut listed = SCRIPTS.to_vec();
    found.sort();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
