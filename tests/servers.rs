//! The servers that the other tests and the demo stand on: they start, replicate, stop, crash, clone and come back.

use mysql_async::prelude::Queryable;
use support::cluster::{APP, Cluster, ROOT, comes_back, process};

mod support;

#[test]
fn a_write_reaches_the_replicas_and_the_logs_say_who_ran_what() {
    support::run(async {
        let cluster = Cluster::shared().await;
        let mark = cluster.mark();
        cluster
            .script("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (7)")
            .await;
        for ordinal in 0..3 {
            let mut server = cluster.connect(ordinal, APP).await;
            let statement = format!("SELECT id\nFROM d.t /* on {ordinal} */");
            assert_eq!(server.query_first::<u32, _>(&statement).await.unwrap(), Some(7));
            let ran = cluster.ran_since(&mark, APP.user);
            assert!(ran.iter().any(|ran| ran.server == ordinal && ran.text == statement), "{ran:#?}");
            assert_eq!(cluster.servers_that_ran(&mark, APP.user, &format!("on {ordinal} ")), [ordinal]);
        }
        let mut replica = cluster.connect(1, APP).await;
        let refused = replica.query_drop("INSERT INTO d.t VALUES (8)").await.unwrap_err();
        assert!(refused.to_string().contains("super-read-only"), "{refused}");
    });
}

#[test]
fn a_server_comes_back_after_stop_crash_freeze_and_clone() {
    support::run(async {
        let cluster = Cluster::start(1).await;
        cluster
            .script("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (7)")
            .await;
        let replica = cluster.server(1);

        replica.stop().await;
        assert!(support::cluster::connect(replica.port(), ROOT).await.is_err());
        replica.start_again().await.unwrap();
        replica.kill().await;
        replica.start_again().await.unwrap();
        replica.freeze();
        replica.thaw();
        cluster.replicate(1).await;
        cluster.caught_up().await;

        // An end that nobody asked for. CLONE shuts a mysqld down that has no supervisor it knows of (3707).
        let mut connection = cluster.connect(1, ROOT).await;
        for statement in ["STOP REPLICA", "SET GLOBAL super_read_only=OFF"] {
            connection.query_drop(statement).await.unwrap();
        }
        let primary = format!("127.0.0.1:{}", cluster.server(0).port());
        connection.query_drop(format!("SET GLOBAL clone_valid_donor_list='{primary}'")).await.unwrap();
        let process = process(replica);
        let port = cluster.server(0).port();
        let clone =
            format!("CLONE INSTANCE FROM '{}'@'127.0.0.1':{port} IDENTIFIED BY '{}'", APP.user, APP.password);
        let ended = connection.query_drop(clone).await.unwrap_err();
        assert!(ended.to_string().contains("3707"), "{ended}");
        comes_back(replica, process).await;
        cluster.replicate(1).await;
        cluster.caught_up().await;
    });
}

#[test]
fn a_server_that_cannot_start_says_why() {
    support::run(async {
        let cluster = Cluster::start(0).await;
        let home = cluster.home();
        let server = support::mysqld::Server {
            name: "broken".to_owned(),
            id: 9,
            port: Some(cluster.server(0).port()),
            read_only: false,
            options: Vec::new(),
            first_statements: String::new(),
        };
        let taken = home.start(server.clone()).await.unwrap_err().to_string();
        assert!(taken.contains("Address already in use"), "{taken}");
        let mistaken =
            support::mysqld::Server { options: vec!["no_such_option=1".to_owned()], port: None, ..server };
        let wrong = home.start(mistaken).await.unwrap_err().to_string();
        assert!(wrong.contains("no_such_option"), "{wrong}");
    });
}
