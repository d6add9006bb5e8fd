//! Compiles the .proto files with protox: no protoc needed for our own protos.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["link.proto", "enrolment.proto", "node.proto", "peer.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=protos/{file}");
    }
    let descriptors = protox::compile(files, ["protos"])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
