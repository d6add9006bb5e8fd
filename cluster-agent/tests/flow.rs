//! A whole agent (driver, link, node sessions) over channels: scripted centre, scripted daemon, in-memory cluster,
//! paused time.

#[cfg(test)]
mod flow {
    pub(crate) mod fixture;
    mod lives;
    mod told;
}
