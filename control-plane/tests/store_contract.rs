//! One contract for every kind of store: each promise below is kept by the memory, the redb and
//! a real etcd store alike. What only a store of its own process can suffer is in `etcd_only`
//! and `redb_only`.

#![expect(
    clippy::unwrap_used,
    clippy::large_futures,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests fail the test; the futures are boxed by `bounded`"
)]

#[path = "store_contract/etcd_only.rs"]
mod etcd_only;
#[path = "store_contract/fixture.rs"]
mod fixture;
#[path = "store_contract/following.rs"]
mod following;
#[path = "store_contract/leases.rs"]
mod leases;
#[path = "store_contract/memory_only.rs"]
mod memory_only;
#[path = "store_contract/random.rs"]
mod random;
#[path = "store_contract/redb_only.rs"]
mod redb_only;
#[path = "store_contract/server.rs"]
mod server;
#[path = "store_contract/suite.rs"]
mod suite;

macro_rules! contract {
    ($($family:ident :: $promise:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $promise() {
                crate::fixture::bounded(crate::$family::$promise(crate::fixture::Fixture::memory())).await;
            })*
        }
        mod preserving {
            $(#[tokio::test]
            async fn $promise() {
                crate::fixture::bounded(crate::$family::$promise(crate::fixture::Fixture::preserving())).await;
            })*
        }
        mod redb {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                crate::fixture::bounded(async {
                    crate::$family::$promise(crate::fixture::Fixture::redb().await).await;
                }).await;
            })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                crate::fixture::bounded(async {
                    let Some(fixture) = crate::fixture::Fixture::etcd().await else { return };
                    crate::$family::$promise(fixture).await;
                }).await;
            })*
        }
    };
}

contract![
    suite::a_put_reads_back_with_its_revisions,
    suite::compare_and_swap_lets_one_of_two_win,
    suite::create_if_absent_succeeds_once,
    suite::every_comparison_holds_and_fails_as_documented,
    suite::concurrent_increments_lose_nothing,
    suite::a_transaction_is_all_or_nothing_at_one_revision,
    suite::bounds_are_refused_before_sending,
    suite::a_hundred_operations_are_accepted,
    suite::paging_reads_one_revision,
    suite::prefixes_are_exact,
    suite::a_watch_from_the_past_sees_all_in_order,
    suite::a_live_watch_sees_transactions_whole,
    suite::a_watch_from_a_compacted_revision_says_so,
    suite::a_deletion_at_the_compacted_revision_is_not_lost_silently,
    suite::the_future_is_refused,
    leases::an_expired_lease_deletes_its_keys_and_the_watch_sees_it,
    leases::a_kept_lease_lives_and_a_revoked_one_dies,
    leases::a_put_without_lease_detaches,
    leases::a_dead_lease_is_refused,
    leases::leadership_passes_and_the_deposed_is_fenced,
    leases::resigning_keeps_the_lease,
    following::a_mirror_equals_the_store_after_a_storm,
    following::compaction_under_a_slow_consumer_loses_nothing,
    following::a_recreated_key_is_seen_as_deleted_and_put,
    following::a_resync_changes_nothing,
];
