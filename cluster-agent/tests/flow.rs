//! A whole agent (driver, link, node sessions) over channels: scripted centre, scripted daemon, in-memory cluster,
//! paused time.

mod flow {
    pub(crate) mod fixture;
    mod lives;
}
