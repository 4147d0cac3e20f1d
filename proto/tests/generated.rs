//! Holds the generated code to the contract.

#[test]
fn generated_code_is_current() {
    // Tests run in their package's folder; the one they were compiled in may be another checkout's, with which this one shares its build outputs.
    let contract = protox::compile(["anabranch/v1/anabranch.proto"], ["proto"]).unwrap();
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure().bytes(".").out_dir(out.path()).compile_fds(contract).unwrap();
    let fresh = std::fs::read_to_string(out.path().join("anabranch.v1.rs")).unwrap();
    let kept = "src/generated/anabranch.v1.rs";
    if std::fs::read_to_string(kept).unwrap_or_default() != fresh {
        std::fs::write(kept, fresh).unwrap();
        panic!("src/generated/anabranch.v1.rs was out of date; it is written anew, commit it");
    }
}
