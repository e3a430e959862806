//! Tables and views whose rows describe one server, not the data.

/// True when tables without a schema before them may describe one server, because this is the session's schema.
pub(crate) fn is_system_schema(schema: &[u8]) -> bool {
    [&b"performance_schema"[..], b"information_schema", b"sys", b"mysql"]
        .iter()
        .any(|name| schema.eq_ignore_ascii_case(name))
}

/// True when `schema.table` (lower case) gives another answer on each server.
pub(super) fn is_per_server(schema: &str, table: &str) -> bool {
    match schema {
        // Of sys only this is about the data.
        "sys" => !matches!(table, "sys_config" | "version"),
        "performance_schema" => true,
        "information_schema" => {
            table.starts_with("innodb_")
                || table.starts_with("wsrep_")
                || table.ends_with("_statistics") && !matches!(table, "column_statistics")
                || INFORMATION_SCHEMA.contains(&table)
        }
        "mysql" => {
            table.starts_with("slave_")
                || table.starts_with("innodb_")
                || table.starts_with("replication_")
                || MYSQL.contains(&table)
        }
        _ => false,
    }
}

const INFORMATION_SCHEMA: &[&str] = &[
    "client_statistics",
    "files",
    "global_status",
    "global_variables",
    "metadata_lock_info",
    "optimizer_trace",
    "plugins",
    "processlist",
    "profiling",
    "query_response_time",
    "session_status",
    "session_variables",
    "slave_status",
    "system_variables",
    "thread_pool_groups",
    "thread_pool_queues",
    "thread_pool_stats",
    "tp_thread_group_state",
    "tp_thread_group_stats",
    "tp_thread_state",
    "user_variables",
];

const MYSQL: &[&str] = &["general_log", "gtid_executed", "gtid_slave_pos", "plugin", "slow_log"];
