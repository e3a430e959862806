//! Real servers that break in ways a cluster's servers break, and the controller that has to mend them, or to leave them
//! alone and say so.

use super::tests::{LONG, answers, ask, reach, start};
use super::*;

/// Slow enough that a copy of what [`fill`] writes can be disturbed, in MiB/s.
const SLOW: NonZeroU32 = NonZeroU32::new(6).expect("not zero");

async fn fill(demo: &Demo) {
    ask(demo, 0, "CREATE TABLE demo.big (id INT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)").await;
    for _ in 0..12 {
        ask(demo, 0, "INSERT INTO demo.big (b) VALUES (REPEAT('x', 4194304))").await;
    }
}

/// Waits until the controller says something of a problem with this reason.
async fn told(controlled: &mut Controlled, reason: &str) -> String {
    let fits = |progress: &Arc<Progress>| progress.problems.iter().any(|problem| problem.reason == reason);
    let told = timeout(LONG, controlled.progress.wait_for(fits)).await.map(|found| found.is_ok());
    let last = controlled.progress.borrow().clone();
    assert_eq!(told, Ok(true), "no {reason}: {last:#?}");
    let problem = last.problems.iter().find(|problem| problem.reason == reason);
    problem.map_or_else(String::new, |problem| problem.words.to_string())
}

const WELL: &str = "Primary Serving Serving";
const BEGAN: &str = "SELECT BEGIN_TIME FROM performance_schema.clone_status";

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_disturbed_are_made_again() {
    let mut demo = start("copies", 2).await;
    let mut controlled = Controlled::start(&demo, Some(SLOW)).expect("nothing on record");
    reach(&mut controlled, WELL).await;
    fill(&demo).await;
    reach(&mut controlled, WELL).await;
    let rows = "SELECT COUNT(*) FROM demo.big";

    // The recipient is killed.
    demo.lose(2).await;
    reach(&mut controlled, "Primary Serving Cloning").await;
    demo.servers()[2].kill().await;
    demo.servers()[2].start_again().await.expect("it starts");
    reach(&mut controlled, WELL).await;
    assert_eq!(ask(&demo, 2, rows).await, "12");

    // The donor is killed, and comes back.
    demo.lose(2).await;
    reach(&mut controlled, "Primary Serving Cloning").await;
    demo.servers()[1].kill().await;
    demo.servers()[1].start_again().await.expect("it starts");
    reach(&mut controlled, WELL).await;
    assert_eq!(ask(&demo, 2, rows).await, "12");

    // The controller is replaced; the one that takes over goes on with the copy that runs.
    demo.lose(2).await;
    reach(&mut controlled, "Primary Serving Cloning").await;
    let began = ask(&demo, 2, BEGAN).await;
    controlled.end().await;
    let mut controlled = Controlled::start(&demo, Some(SLOW)).expect("its own record");
    reach(&mut controlled, WELL).await;
    let acts = || format!("it was begun anew: {:#?}", controlled.progress.borrow().acts);
    assert_eq!(ask(&demo, 2, BEGAN).await, began, "{}", acts());
    assert_eq!(ask(&demo, 2, rows).await, "12");
    controlled.end().await;
    demo.stop().await.expect("it stops");
}

/// Does something to a replica as somebody with all rights would, however soon the controller makes it read-only again.
async fn meddle(demo: &Demo, server: usize, sql: &str) {
    answers(demo, server, &format!("SET GLOBAL super_read_only = OFF; {sql}"), "").await;
}

/// Leaves nothing in the binary logs but what is written from now on. A log stays while a replica is being sent from it.
async fn purge(demo: &Demo, server: usize) {
    ask(demo, server, "FLUSH BINARY LOGS").await;
    let began = Instant::now();
    loop {
        let shown = ask(demo, server, "SHOW BINARY LOGS").await;
        let logs: Vec<&str> = shown.split(' ').filter(|word| word.contains("binlog.")).collect();
        let [.., last] = logs[..] else { panic!("no logs: {shown}") };
        if logs.len() == 1 {
            return;
        }
        assert!(began.elapsed() < LONG, "{shown}");
        assert_eq!(ask(demo, server, &format!("PURGE BINARY LOGS TO '{last}'")).await, "");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_break_are_mended_or_left_to_people() {
    let demo = start("repairs", 2).await;
    let mut controlled = Controlled::start(&demo, None).expect("nothing on record");
    reach(&mut controlled, WELL).await;
    ask(&demo, 0, "CREATE TABLE demo.t (id INT PRIMARY KEY)").await;
    let rows = "SELECT COUNT(*) FROM demo.t";

    // The primary's logs are gone, and another replica still has them: nothing is copied.
    let began = ask(&demo, 2, BEGAN).await;
    demo.servers()[2].stop().await;
    ask(&demo, 0, "INSERT INTO demo.t VALUES (1)").await;
    reach(&mut controlled, "Primary Serving Unreachable").await;
    purge(&demo, 0).await;
    demo.servers()[2].start_again().await.expect("it starts");
    reach(&mut controlled, WELL).await;
    assert_eq!((ask(&demo, 2, rows).await.as_str(), ask(&demo, 2, BEGAN).await == began), ("1", true));

    // Nobody has them any more: it is copied anew.
    demo.servers()[2].stop().await;
    ask(&demo, 0, "INSERT INTO demo.t VALUES (2)").await;
    reach(&mut controlled, "Primary Serving Unreachable").await;
    for server in [0, 1] {
        purge(&demo, server).await;
    }
    demo.servers()[2].start_again().await.expect("it starts");
    reach(&mut controlled, WELL).await;
    assert_eq!((ask(&demo, 2, rows).await.as_str(), ask(&demo, 2, BEGAN).await == began), ("2", false));

    // Another's number is given up for a free one.
    ask(&demo, 2, "SET GLOBAL server_id = 101").await;
    answers(&demo, 2, "SELECT @@server_id", "102").await;
    reach(&mut controlled, WELL).await;

    // A row that should not be there: one try, then it is told, and nothing is skipped.
    meddle(&demo, 2, "SET sql_log_bin = 0; INSERT INTO demo.t VALUES (3)").await;
    ask(&demo, 0, "INSERT INTO demo.t VALUES (3)").await;
    let words = told(&mut controlled, "DataDiffers").await;
    assert!(words.contains("error 1062"), "{words}");
    meddle(&demo, 2, "SET sql_log_bin = 0; DELETE FROM demo.t WHERE id = 3; START REPLICA").await;
    reach(&mut controlled, WELL).await;

    // A transaction of its own: it is believed after a while, replication stops, and its data stays.
    meddle(&demo, 2, "INSERT INTO demo.t VALUES (9)").await;
    reach(&mut controlled, "Primary Serving Errant").await;
    let receiver = "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status";
    answers(&demo, 2, receiver, "OFF").await;
    answers(&demo, 2, "SELECT @@super_read_only", "1").await;
    assert_eq!(ask(&demo, 2, "SELECT COUNT(*) FROM demo.t WHERE id = 9").await, "1");
    controlled.end().await;
    demo.stop().await.expect("it stops");
}
