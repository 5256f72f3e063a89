//! Generates the code of a file descriptor set, which protoc made, into a folder: generator SET FOLDER

use std::error::Error;

use prost::Message as _;
use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(set), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generator SET FOLDER".into());
    };
    let files = FileDescriptorSet::decode(std::fs::read(set)?.as_slice())?;
    let mut config = tonic_prost_build::Config::new();
    // Google's comments have examples that rustdoc would take for Rust.
    config.disable_comments([".google.rpc"]);
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .out_dir(folder)
        .include_file("mod.rs")
        .compile_fds_with_config(files, config)?;
    Ok(())
}
