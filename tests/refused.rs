//! Files that cannot land are told by the run that meets them, and by `status` until they are mended.

use crate::support::project::Project;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_files_stand_in_status_until_they_are_mended() {
    let project = Project::new();
    std::fs::write(project.root().join("inbox/orders/broken.gz"), [0x1f, 0x8b, 8, 0, 1]).unwrap();
    std::os::unix::fs::symlink(".", project.root().join("inbox/orders/loop")).unwrap();
    let run = project.run(&["ingest", "--once"]).await;
    assert_eq!(run.status.code(), Some(1), "{}", run.errors);
    let status = project.run(&["--format", "csv", "status", "--sources"]).await;
    for file in ["refused broken.gz: ", "refused loop"] {
        assert!(run.errors.contains(file) && status.errors.contains(file), "{file}\n{}\n{}", run.errors, status.errors);
    }
    let of_orders = |output: &str| output.lines().find(|line| line.starts_with("orders,")).map(str::to_owned);
    assert!(of_orders(&status.output).is_some_and(|line| line.ends_with(",2")), "{}", status.output);
    std::fs::remove_file(project.root().join("inbox/orders/loop")).unwrap();
    std::fs::remove_file(project.root().join("inbox/orders/broken.gz")).unwrap();
    project.succeed(&["ingest", "--once"]).await;
    let status = project.run(&["--format", "csv", "status", "--sources"]).await;
    assert!(!status.errors.contains("refused"), "{}", status.errors);
    assert!(of_orders(&status.output).is_some_and(|line| line.ends_with(",0")), "{}", status.output);
}
