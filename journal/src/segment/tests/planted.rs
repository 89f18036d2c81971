//! Each hazard's test fails once the line that keeps its promise is taken away.

use redoubt_env::planted::assert_catches;

#[test]
fn each_planted_bug_of_the_storage_is_caught() {
    for (test, bug) in [
        ("vote::h05_crash_between_the_votes_slots", "h05_vote_one_slot"),
        ("vote::h05_rot_of_the_newer_slot", "h05_vote_one_slot"),
        (
            "vote::h05_power_cut_while_the_vote_of_a_killed_process_is_copied",
            "h05_vote_copied_before_it_is_durable",
        ),
        (
            "basics::h06_an_empty_directory_is_a_new_incarnation",
            "h06_identity_by_name",
        ),
        ("torn_or_rotten::h07_torn_tail_is_cut", "h07_torn_end_is_kept"),
        (
            "torn_or_rotten::h07_rot_below_the_mark_is_not_cut",
            "h07_rot_is_cut",
        ),
        (
            "torn_or_rotten::h07_truncated_suffix_stays_dead",
            "h07_rot_is_cut",
        ),
        (
            "torn_or_rotten::h07_records_of_an_older_file_in_the_same_place_stay_dead",
            "h07_no_generation",
        ),
        (
            "torn_or_rotten::h07_rot_of_the_last_record_is_told_from_a_torn_write_by_the_mark",
            "h07_no_mark",
        ),
        (
            "basics::h08_the_committed_index_is_saved_with_the_next_batch_or_when_idle",
            "h08_committed_not_saved",
        ),
        (
            "faults::every_call_may_fail_once_and_nothing_answered_is_lost",
            "fsync_retried",
        ),
        ("merge::the_power_may_go_off_at_any_moment", "merge_not_synced"),
        (
            "merge::the_power_may_go_off_while_a_file_is_made_ready_to_be_used_again",
            "reused_before_its_name_is_gone",
        ),
        (
            "merge::a_file_that_somebody_reads_is_not_used_again",
            "reused_while_open",
        ),
        ("trim::the_power_may_go_off_at_any_moment", "beginning_not_synced"),
        (
            "trim::the_power_may_go_off_at_any_moment",
            "trimmed_without_a_beginning",
        ),
        (
            "merge::what_was_written_wrongly_replaces_nothing",
            "merge_not_checked",
        ),
    ] {
        assert_catches(&format!("segment::tests::{test}"), bug);
    }
}
