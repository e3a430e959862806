//! The servers of the tutorial are taken over as deploy/overlays/existing/README.md says, statement by statement, with an
//! application at work the whole time.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::cluster::{BOOT, DOORS, ROOT, SERVERS, SOON, apply_base, well};
use crate::scene::{Scene, scenario, until};
use crate::traffic::{Traffic, create_shop};

#[test]
fn the_tutorials_servers_are_taken_over() {
    scenario("takeover", async |scene| {
        the_tutorial(scene).await;

        // 1. Readwright, looking on.
        let account = [
            "CREATE USER readwright@'%' IDENTIFIED BY 'probe-1'",
            "GRANT PROCESS, REPLICATION CLIENT, SHOW_ROUTINE ON *.* TO readwright@'%'",
            "GRANT SELECT ON performance_schema.* TO readwright@'%'",
        ];
        run(scene, "mysql-0", &account).await;
        scene.kubectl(&["create", "secret", "generic", "mysql", "--from-literal=probe=probe-1"]).await;
        readwrights(scene, "apply", 2).await;
        // And back: nothing else goes with it.
        readwrights(scene, "delete", 0).await;
        for service in ["mysql", "mysql-read"] {
            scene.kubectl(&["get", "service", service]).await;
        }
        readwrights(scene, "apply", 2).await;
        create_shop(&mut root(scene, "mysql-0").await.expect("it runs")).await;
        let traffic = Traffic::start(scene, &DOORS, 2, 4);
        traffic.writes(20, SOON).await;
        traffic.reads_go_to(scene, &[], SOON).await;

        gtids(scene).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        no_gtids(scene, &traffic).await;
        traffic.writes(20, SOON).await;
        traffic.reads_go_to(scene, &[], SOON).await;
        gtids(scene).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        traffic.so_far().assert_no_errors();

        // Each client loses its connection once to each Readwright that is replaced.
        the_controller(scene).await;
        traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
        no_more_xtrabackup(scene).await;
        traffic.writes(50, SOON).await;
        traffic.reads_go_to(scene, &["mysql-0", "mysql-2"], BOOT).await;
        let passwords =
            format!("ALTER USER root@'%' IDENTIFIED BY '{ROOT}', root@localhost IDENTIFIED BY '{ROOT}'");
        run(scene, "mysql-1", &[&passwords]).await;
        well(scene, &SERVERS, "mysql-1", SOON).await;

        and_back(scene, &traffic).await;
        let tally = traffic.finish(&mut root(scene, "mysql-0").await.expect("it runs")).await;
        eprintln!("takeover: {tally}");
        tally.assert_fresh();
        let mut errors = tally.write_errors.iter().chain(&tally.read_errors);
        assert!(
            errors.clone().count() <= 24 && errors.all(|why| why.contains("the proxy is stopping")),
            "{tally}"
        );
    });
}

/// Three servers, replication by file and position, as the tutorial leaves them.
async fn the_tutorial(scene: &Scene) {
    scene.apply(include_str!("tutorial.yaml")).await;
    scene.ready(&SERVERS, BOOT).await;
    let mut source = root(scene, "mysql-0").await.expect("it runs");
    let log: Option<mysql_async::Row> = source.query_first("SHOW BINARY LOG STATUS").await.expect("root may");
    let log = log.expect("there is one");
    let (file, position): (String, u64) = (log.get(0).expect("a file"), log.get(1).expect("a position"));
    let follow = format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST='mysql-0.mysql', SOURCE_USER='root', SOURCE_PASSWORD='', \
         SOURCE_LOG_FILE='{file}', SOURCE_LOG_POS={position}, SOURCE_CONNECT_RETRY=10, GET_SOURCE_PUBLIC_KEY=1"
    );
    for name in ["mysql-1", "mysql-2"] {
        run(scene, name, &[&follow, "START REPLICA"]).await;
    }
}

/// 1. There, or gone again.
async fn readwrights(scene: &Scene, verb: &str, count: usize) {
    scene.kubectl(&[verb, "-k", "deploy/overlays/existing"]).await;
    until(&format!("{count} Readwrights are ready"), SOON, async || {
        match scene.kubelet.ready(&DOORS.map(str::to_owned)) {
            ready if ready.len() == count => Ok(()),
            ready => Err(format!("{ready:?}")),
        }
    })
    .await;
}

/// 2. Each line on every server before the next one, replicas first.
async fn gtids(scene: &Scene) {
    for line in [
        "SET PERSIST enforce_gtid_consistency = WARN",
        "SET PERSIST enforce_gtid_consistency = ON",
        "SET PERSIST gtid_mode = OFF_PERMISSIVE",
        "SET PERSIST gtid_mode = ON_PERMISSIVE",
    ] {
        for name in REPLICAS_FIRST {
            run(scene, name, &[line]).await;
        }
    }
    for name in REPLICAS_FIRST {
        until(&format!("{name} has no anonymous transactions"), SOON, async || {
            let count = "SHOW STATUS LIKE 'Ongoing_anonymous_transaction_count'";
            let count: Option<(String, String)> =
                root(scene, name).await?.query_first(count).await.map_err(|error| error.to_string())?;
            match count {
                Some((_, count)) if count == "0" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    for name in REPLICAS_FIRST {
        run(scene, name, &["SET PERSIST gtid_mode = ON"]).await;
    }
    for name in ["mysql-1", "mysql-2"] {
        let position = "CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION = 1";
        run(scene, name, &["STOP REPLICA", position, "START REPLICA"]).await;
    }
}

/// And back: positions first, then the same lines the other way round.
async fn no_gtids(scene: &Scene, traffic: &Traffic) {
    for name in ["mysql-1", "mysql-2"] {
        run(scene, name, &["STOP REPLICA"]).await;
        let mut replica = root(scene, name).await.expect("it runs");
        let status: Option<mysql_async::Row> =
            replica.query_first("SHOW REPLICA STATUS").await.expect("root may");
        let status = status.expect("it replicates");
        let (file, position): (String, u64) = (
            status.get("Relay_Source_Log_File").expect("a file"),
            status.get("Exec_Source_Log_Pos").expect("a position"),
        );
        let positions = format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_AUTO_POSITION = 0, SOURCE_LOG_FILE = '{file}', \
             SOURCE_LOG_POS = {position}"
        );
        run(scene, name, &[&positions, "START REPLICA"]).await;
    }
    for name in REPLICAS_FIRST {
        run(scene, name, &["SET PERSIST gtid_mode = ON_PERMISSIVE"]).await;
    }
    traffic.reads_go_to(scene, &[], SOON).await;
    for name in REPLICAS_FIRST {
        run(scene, name, &["SET PERSIST gtid_mode = OFF_PERMISSIVE"]).await;
    }
    for name in REPLICAS_FIRST {
        until(&format!("{name} has no transaction with a GTID"), SOON, async || {
            let owned: Option<String> = root(scene, name)
                .await?
                .query_first("SELECT @@GLOBAL.gtid_owned")
                .await
                .map_err(|error| error.to_string())?;
            match owned {
                Some(owned) if owned.is_empty() => Ok(()),
                owned => Err(format!("{owned:?}")),
            }
        })
        .await;
    }
    caught_up(scene).await;
    for line in ["SET PERSIST gtid_mode = OFF", "SET PERSIST enforce_gtid_consistency = OFF"] {
        for name in REPLICAS_FIRST {
            run(scene, name, &[line]).await;
        }
    }
}

/// Replicas are past all that has a GTID: without them they could not apply it.
async fn caught_up(scene: &Scene) {
    let mut source = root(scene, "mysql-0").await.expect("it runs");
    let executed: Option<String> = source.query_first("SELECT @@gtid_executed").await.expect("it answers");
    let executed = executed.expect("a row");
    for name in ["mysql-1", "mysql-2"] {
        until(&format!("{name} has caught up"), SOON, async || {
            let has = format!("SELECT GTID_SUBSET('{executed}', @@gtid_executed)");
            let has: Option<u8> =
                root(scene, name).await?.query_first(has).await.map_err(|error| error.to_string())?;
            if has == Some(1) { Ok(()) } else { Err(executed.clone()) }
        })
        .await;
    }
}

/// 4. Servers are taken into its record before any of them restarts.
async fn the_controller(scene: &Scene) {
    let account = [
        "CREATE USER readwright_controller@'%' IDENTIFIED BY 'controller-1'",
        "GRANT ALL ON *.* TO readwright_controller@'%' WITH GRANT OPTION",
    ];
    run(scene, "mysql-0", &account).await;
    run(scene, "mysql-0", &["INSTALL PLUGIN clone SONAME 'mysql_clone.so'"]).await;
    for name in ["mysql-1", "mysql-2"] {
        let install = "INSTALL PLUGIN clone SONAME 'mysql_clone.so'";
        run(scene, name, &["SET GLOBAL super_read_only = OFF", install, "SET GLOBAL super_read_only = ON"])
            .await;
    }
    let secret = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: mysql}}, stringData: \
         {{root: {ROOT}, controller: controller-1, replication: replication-1, probe: probe-1}}}}"
    );
    scene.apply(&secret).await;
    scene.kubectl(&["apply", "-k", "deploy/base/readwright"]).await;
    until("all serve, says the controller", BOOT, async || {
        for door in scene.kubelet.ready(&DOORS.map(str::to_owned)) {
            let told = scene.status(&door).await?["controller"].clone();
            if told["leads"] == true && told["all_serving"] == true {
                return Ok(());
            }
        }
        Err("they do not".to_owned())
    })
    .await;
}

/// 5. The new StatefulSet.
async fn no_more_xtrabackup(scene: &Scene) {
    scene.kubectl(&["delete", "statefulset", "mysql", "--cascade=orphan"]).await;
    apply_base(scene, &[]).await;
    partition(scene, 1).await;
    rolled_out(scene).await;
    switchover(scene, "mysql-1").await;
    partition(scene, 0).await;
    rolled_out(scene).await;
}

async fn switchover(scene: &Scene, to: &str) {
    let door = scene.kubelet.ready(&DOORS.map(str::to_owned))[0].clone();
    let command = ["/readwright", "switchover", "--to", to];
    scene.kubelet.exec(&door, "readwright", &command).await.expect("it succeeds");
}

/// From step 5 to step 3: the tutorial's own pods, and nobody who takes care of them.
async fn and_back(scene: &Scene, traffic: &Traffic) {
    let mut primary = scene.mysql("mysql-1", "root", ROOT).await.expect("it runs");
    let free = "ALTER USER root@'%' IDENTIFIED BY '', root@localhost IDENTIFIED BY ''";
    primary.query_drop(free).await.expect("root may");
    scene.kubectl(&["delete", "statefulset", "mysql", "--cascade=orphan"]).await;
    scene.apply(include_str!("tutorial.yaml")).await;
    rolled_out(scene).await;
    switchover(scene, "mysql-0").await;
    scene.kubectl(&["apply", "-k", "deploy/overlays/existing"]).await;
    scene.kubectl(&["rollout", "status", "deployment", "readwright", "--timeout=500s"]).await;
    for name in SERVERS {
        run(scene, name, &["RESET PERSIST IF EXISTS skip_replica_start"]).await;
    }
    traffic.writes(50, SOON).await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], SOON).await;
    // It goes on as ever: a replica that starts again replicates again.
    scene.kubectl(&["delete", "pod", "mysql-2", "--wait=true"]).await;
    traffic.reads_go_to(scene, &["mysql-1", "mysql-2"], BOOT).await;
    traffic.writes(50, SOON).await;
}

async fn partition(scene: &Scene, ordinal: u8) {
    let strategy =
        format!("{{\"spec\": {{\"updateStrategy\": {{\"rollingUpdate\": {{\"partition\": {ordinal}}}}}}}}}");
    scene.kubectl(&["patch", "statefulset", "mysql", "-p", &strategy]).await;
}

async fn rolled_out(scene: &Scene) {
    scene.kubectl(&["rollout", "status", "statefulset", "mysql", "--timeout=500s"]).await;
}

const REPLICAS_FIRST: [&str; 3] = ["mysql-2", "mysql-1", "mysql-0"];

/// Past the proxy; the tutorial's root has no password.
async fn root(scene: &Scene, pod: &str) -> Result<Conn, String> {
    scene.mysql(pod, "root", "").await
}

async fn run(scene: &Scene, pod: &str, statements: &[&str]) {
    let mut server = root(scene, pod).await.expect("it runs");
    for statement in statements {
        server.query_drop(*statement).await.unwrap_or_else(|why| panic!("{pod}: {statement}: {why}"));
    }
}
