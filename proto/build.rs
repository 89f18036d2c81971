//! Compiles the .proto files, without a protoc on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "redoubt/v1/journal.proto",
        "redoubt/v1/cluster.proto",
        "redoubt/v1/raft.proto",
        "redoubt/v1/checkpoint.proto",
    ];
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::RoomyCodec")
        .compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=redoubt");
    Ok(())
}
