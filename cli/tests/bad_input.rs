//! What the command line makes of bad input: every verb and every argument of the tree is tried, so that a new one
//! cannot be left out, and so is every verb against control planes that are broken or hostile. Whatever it is, the
//! answer is one of the documented exit codes, a message that names what is wrong, nothing on stdout, no panic, and
//! bounded memory and time.

#![expect(clippy::panic, reason = "what the tests share fails the test")]

#[path = "bad_input/arguments.rs"]
mod arguments;
#[path = "bad_input/contexts.rs"]
mod contexts;
#[path = "bad_input/fake.rs"]
mod fake;
#[path = "bad_input/hostile.rs"]
mod hostile;
#[path = "bad_input/rows.rs"]
mod rows;
#[path = "bad_input/terminal.rs"]
mod terminal;
#[path = "bad_input/tree.rs"]
mod tree;
#[path = "bad_input/world.rs"]
mod world;
