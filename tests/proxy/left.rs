//! What a statement leaves to the next one of its session.

use super::support::cluster::{APP, Cluster};
use super::support::proxy::Proxy;
use super::support::raw::{Raw, USUAL};
use super::{proxy, run};

#[test]
fn found_rows_are_the_sessions_own() {
    run(async {
        proxy().await;
        let cluster = Cluster::shared().await;
        cluster
            .script(
                "CREATE TABLE d.found (id INT PRIMARY KEY); INSERT INTO d.found VALUES (1), (2), (3), (4);\n\
                 DELIMITER //\n\
                 CREATE PROCEDURE d.finds() BEGIN SELECT SQL_CALC_FOUND_ROWS id FROM d.found LIMIT 1; END//\n\
                 CREATE PROCEDURE d.finds_and_fails() BEGIN DO 1; SIGNAL SQLSTATE '45000'; END//\n\
                 CREATE FUNCTION d.third(id INT) RETURNS INT DETERMINISTIC NO SQL \
                 BEGIN IF id = 3 THEN SIGNAL SQLSTATE '45000'; END IF; RETURN id; END//",
            )
            .await;
        // One connection to each server: what is left on it the other client's next statement overwrites.
        let narrow = Proxy::start(cluster, "pool: {max_per_server: 1, linger_ms: 0}").await;
        let calculated = "SELECT SQL_CALC_FOUND_ROWS id FROM d.found WHERE id > 1 LIMIT 1";
        for (sql, found) in [
            ("SELECT id FROM d.found", "4"),
            (calculated, "3"),
            ("CALL d.finds()", "4"),
            ("CALL d.finds_and_fails()", "1"),
            ("DO 1", "1"),
            // Those that fail leave what was there.
            ("SELECT nope FROM d.found", "2"),
            ("SELECT id, d.third(id) FROM d.found ORDER BY id", "2"),
            ("INSERT INTO d.found VALUES (1)", "2"),
            ("SELEC", "2"),
            ("SELECT id FROM d.found; SELECT nope", "4"),
        ] {
            for flags in [USUAL, USUAL & !super::support::raw::flag::DEPRECATE_EOF] {
                let mut one = Raw::connect(narrow.port(), APP, flags).await;
                let mut other = Raw::connect(narrow.port(), APP, flags).await;
                one.query("SELECT id FROM d.found WHERE id < 3").await;
                one.query_all(sql).await;
                for elsewhere in ["SELECT 1 FROM d.home", "UPDATE d.found SET id = 1 WHERE id = 1"] {
                    other.query(elsewhere).await;
                }
                one.run("SET @x = 1").await;
                other.query("SELECT 1 FROM d.home").await;
                assert_eq!(one.text("SELECT FOUND_ROWS()").await, found, "{sql}");
            }
        }
    });
}
