//! The product on two real clusters. Every effect is asserted from outside the
//! target. Needs root, the tools that `lab doctor` lists and `FAULTLINE_LAB=1`;
//! run with `--test-threads=1`: there is one lab, and a halt or a dead centre
//! is everybody's.

mod a_authored;
mod b_cli;
mod c_left_dead;
mod d_halts;
mod e_etcd;
mod f_mistakes;
mod g_link_lost;
mod h_drift;
mod h_node;
mod i_two_replicas;
mod j_kinds;
mod k_uninstall;
mod stage;

/// Sorts last: takes the lab down and checks that nothing is left of it.
#[test]
fn z_the_machine_is_clean_afterwards() {
    if stage::enabled() && std::env::var_os("FAULTLINE_LAB_KEEP").is_none() {
        e2e::lab::take_down().expect("the lab goes without a trace");
    }
}
