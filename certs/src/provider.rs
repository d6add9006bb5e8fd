//! The one crypto provider of the whole project: ring.

use std::sync::Arc;

/// The one crypto provider; never the process default, which panics when two providers are compiled in.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Makes that provider the process default too, for libraries that ask for one. First thing in `main`.
pub fn install_provider() {
    // A second call finds the same one installed.
    drop(rustls::crypto::ring::default_provider().install_default());
}
