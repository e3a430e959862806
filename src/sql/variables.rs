//! System variables: which of them a session may carry from connection to connection, which tie it to one, and which
//! say who the server is. The list of replayable ones was asked of real servers.

/// What reading `@@name` asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The session, or something that all servers share.
    Session,
    LastInsertId,
    /// The statement before.
    Previous,
    /// GTID state: that of the primary is the one that counts.
    Gtid,
    /// Who or what the server is.
    Identity,
}

/// What assigning to a session variable does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assigned {
    /// The server's tracker reports the value, which any connection can be given.
    Replayable,
    /// Meant for one connection.
    Bound(&'static Bound),
    /// What the client wants to be told of its session.
    Tracker,
    Unknown,
}

/// A variable that ties its session to one connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) name: &'static str,
    /// Values, in lower case, with which the connection is as if the variable had never been set. DEFAULT is one for
    /// every variable.
    pub(super) neutral: &'static [&'static str],
    /// Whether the neutral value can be given to any connection.
    pub(super) neutral_is_replayable: bool,
}

/// `name` is in lower case.
pub(super) fn read(name: &str) -> Read {
    match name {
        "last_insert_id" | "identity" | "insert_id" => Read::LastInsertId,
        "warning_count" | "error_count" => Read::Previous,
        _ if name.starts_with("gtid_") || name == "last_gtid" => Read::Gtid,
        _ if IDENTITY.contains(&name) => Read::Identity,
        _ => Read::Session,
    }
}

/// True when a pattern of SHOW VARIABLES (lower case) may be meant for a variable that says who the server is.
pub(super) fn pattern_asks_identity(pattern: &str) -> bool {
    let plain: String = pattern.chars().filter(|c| !matches!(c, '%' | '\\')).collect();
    !plain.is_empty()
        && (plain.starts_with("gtid")
            || IDENTITY.iter().any(|name| name.contains(&plain) && (plain.len() > 3 || *name == plain)))
}

/// What the names of the variables begin with that say what a client is told of its session. Servers are told otherwise,
/// because we learn of sessions by the same means.
pub(super) const TRACKERS: &str = "session_track_";

/// `name` is in lower case.
pub(super) fn is_tracker(name: &str) -> bool {
    name.starts_with(TRACKERS)
}

/// True when a pattern of SHOW VARIABLES (lower case) may find a variable whose name begins with this.
pub(super) fn pattern_finds(pattern: &str, name: &str) -> bool {
    let fixed = pattern.split(['%', '_', '\\']).next().unwrap_or_default();
    name.starts_with(fixed)
}

/// True for a session variable that any connection can be given.
pub(crate) fn is_replayable(name: &[u8]) -> bool {
    REPLAYABLE.binary_search_by(|known| known.as_bytes().cmp(name)).is_ok()
}

/// `name` is in lower case.
pub(super) fn assigned(name: &str) -> Assigned {
    match BOUND.iter().find(|bound| bound.name == name) {
        Some(bound) => Assigned::Bound(bound),
        None if REPLAYABLE.binary_search(&name).is_ok() => Assigned::Replayable,
        None if name.starts_with(TRACKERS) => Assigned::Tracker,
        None => Assigned::Unknown,
    }
}

/// The variables that bind a session whose server begins it with these values.
pub(crate) fn binding<'a>(value: impl Fn(&str) -> Option<&'a [u8]>) -> impl Iterator<Item = &'static str> {
    let binds = move |bound: &&Bound| {
        let is_neutral =
            |value: &[u8]| bound.neutral.iter().any(|neutral| value.eq_ignore_ascii_case(neutral.as_bytes()));
        bound.neutral_is_replayable && value(bound.name).is_some_and(|value| !is_neutral(value))
    };
    BOUND.iter().filter(binds).map(|bound| bound.name)
}

/// For a variable that decides where reads belong: the values with which they may be a replica's, in lower case.
pub(super) fn values_that_claim_no_reads(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "autocommit" => Some(&["1", "on", "true"]),
        "transaction_isolation" | "tx_isolation" => {
            Some(&["0", "1", "2", "read-uncommitted", "read-committed", "repeatable-read"])
        }
        _ => None,
    }
}

/// Another variable that changes with this one and that the tracker does not report then.
pub(super) fn companion(name: &str) -> Option<&'static str> {
    COMPANIONS.iter().find(|(assigned, _)| *assigned == name).map(|(_, changed)| *changed)
}

/// MySQL up to 5.7.19 tells of isolation level and access mode by other names, and MariaDB does in every version.
pub(super) fn has_old_transaction_names(version: u32, mariadb: bool) -> bool {
    mariadb || version < 50_720
}

/// Whether such a server knows isolation level and access mode by this name too. MySQL has given up the old ones in 8.0.3;
/// MariaDB has had the new ones since 11.1.1.
pub(super) fn is_transaction_name(name: &str, version: u32, mariadb: bool) -> bool {
    match name.starts_with("tx_") {
        true => mariadb || version < 80_003,
        false => version >= if mariadb { 110_101 } else { 50_720 },
    }
}

/// Not server_id and hostname: with these people look where their reads go, and no client takes a role from them.
const IDENTITY: &[&str] = &[
    "admin_address",
    "admin_port",
    "basedir",
    "bind_address",
    "datadir",
    "general_log_file",
    "innodb_read_only",
    "log_bin",
    "log_bin_basename",
    "log_error",
    "log_replica_updates",
    "log_slave_updates",
    "mysqlx_port",
    "offline_mode",
    "pid_file",
    "port",
    "pseudo_thread_id",
    "read_only",
    "relay_log",
    "report_host",
    "report_port",
    "rpl_semi_sync_master_enabled",
    "rpl_semi_sync_replica_enabled",
    "rpl_semi_sync_slave_enabled",
    "rpl_semi_sync_source_enabled",
    "server_uid",
    "server_uuid",
    "slow_query_log_file",
    "socket",
    "super_read_only",
    "wsrep_node_name",
];

const fn bound(name: &'static str, neutral: &'static [&'static str]) -> Bound {
    Bound { name, neutral, neutral_is_replayable: false }
}

const BOUND: &[Bound] = &[
    bound("sql_log_bin", &["1", "on", "true"]),
    bound("gtid_next", &["automatic"]),
    bound("insert_id", &[]),
    bound("last_insert_id", &[]),
    bound("identity", &[]),
    bound("timestamp", &["0"]),
    bound("pseudo_thread_id", &[]),
    bound("pseudo_replica_mode", &["0", "off", "false"]),
    bound("pseudo_slave_mode", &["0", "off", "false"]),
    bound("rand_seed1", &[]),
    bound("rand_seed2", &[]),
    bound("profiling", &["0", "off", "false"]),
    bound("optimizer_trace", &["enabled=off", "enabled=off,one_line=off"]),
    bound("debug", &[]),
    bound("debug_dbug", &[]),
    bound("debug_sync", &[]),
    bound("original_commit_timestamp", &[]),
    bound("original_server_version", &[]),
    bound("immediate_server_version", &[]),
    bound("require_row_format", &["0", "off", "false"]),
    bound("rbr_exec_mode", &["0", "strict"]),
    bound("transaction_allow_batching", &["0", "off", "false"]),
    // MariaDB.
    bound("gtid_domain_id", &[]),
    bound("gtid_seq_no", &[]),
    bound("server_id", &[]),
    bound("skip_replication", &["0", "off", "false"]),
    bound("skip_parallel_replication", &["0", "off", "false"]),
    bound("wsrep_on", &["1", "on", "true"]),
    // COMMIT would open a transaction or close the connection.
    Bound { name: "completion_type", neutral: &["0", "no_chain"], neutral_is_replayable: true },
    // `WHERE id IS NULL` would mean the last insert id. Drivers turn it off at every login.
    Bound { name: "sql_auto_is_null", neutral: &["0", "off", "false"], neutral_is_replayable: true },
];

const COMPANIONS: &[(&str, &str)] = &[
    ("character_set_connection", "collation_connection"),
    ("collation_connection", "character_set_connection"),
    ("character_set_database", "collation_database"),
    ("collation_database", "character_set_database"),
    ("character_set_server", "collation_server"),
    ("collation_server", "character_set_server"),
    ("max_join_size", "sql_big_selects"),
];

/// Session variables whose value the server's tracker reports and any connection can be given: what to name in
/// `session_track_system_variables`. Servers warn of names that they do not have, and ignore them.
#[rustfmt::skip]
pub(crate) const REPLAYABLE: &[&str] = &[
    "alter_algorithm", "analyze_max_length", "aria_repair_threads", "aria_sort_buffer_size",
    "auto_increment_increment", "auto_increment_offset", "autocommit", "avoid_temporal_upgrade",
    "big_tables", "binlog_direct_non_transactional_updates", "binlog_format", "binlog_row_image",
    "binlog_row_value_options", "binlog_rows_query_log_events", "binlog_transaction_compression",
    "binlog_transaction_compression_level_zstd", "block_encryption_mode", "bulk_insert_buffer_size",
    "character_set_client", "character_set_connection", "character_set_database",
    "character_set_filesystem", "character_set_results", "character_set_server", "check_constraint_checks",
    "collation_connection", "collation_database", "collation_server", "column_compression_threshold",
    "column_compression_zlib_level", "column_compression_zlib_strategy", "column_compression_zlib_wrap", "completion_type",
    "connection_memory_chunk_size", "connection_memory_limit", "cte_max_recursion_depth",
    "deadlock_search_depth_long", "deadlock_search_depth_short", "deadlock_timeout_long",
    "deadlock_timeout_short", "default_collation_for_utf8mb4", "default_regex_flags",
    "default_storage_engine", "default_table_encryption", "default_tmp_storage_engine",
    "default_week_format", "div_precision_increment", "enable_cascade_triggers",
    "enable_secondary_engine_statistics", "end_markers_in_json", "enforce_storage_engine",
    "eq_range_index_dive_limit", "expensive_subquery_limit", "explain_format",
    "explain_json_format_version", "explicit_defaults_for_timestamp",
    "external_table_secondary_storage_engine", "external_table_storage_engine", "foreign_key_checks",
    "generated_random_password_length", "global_connection_memory_tracking", "group_concat_max_len",
    "group_replication_consistency", "histogram_generation_max_mem_size", "histogram_size",
    "histogram_type", "idle_readonly_transaction_timeout", "idle_transaction_timeout",
    "idle_write_transaction_timeout", "in_predicate_conversion_threshold",
    "information_schema_stats_expiry", "innodb_ddl_buffer_size", "innodb_ddl_threads",
    "innodb_ft_enable_stopword", "innodb_ft_user_stopword_table", "innodb_lock_wait_timeout",
    "innodb_optimize_point_storage", "innodb_parallel_read_threads", "innodb_strict_mode",
    "innodb_table_locks", "innodb_tmpdir", "interactive_timeout", "internal_tmp_disk_storage_engine",
    "internal_tmp_mem_storage_engine", "join_buffer_size", "join_buffer_space_limit", "join_cache_level",
    "keep_files_on_create", "lc_messages", "lc_time_names", "lock_wait_timeout", "log_disabled_statements",
    "log_queries_not_using_indexes", "log_slow_disabled_statements", "log_slow_filter",
    "log_slow_rate_limit", "log_slow_verbosity", "log_warnings", "long_query_time", "low_priority_updates",
    "max_allowed_packet", "max_delayed_threads", "max_error_count", "max_execution_time",
    "max_heap_table_size", "max_insert_delayed_threads", "max_join_size", "max_length_for_sort_data",
    "max_points_in_geometry", "max_recursive_iterations", "max_rowid_filter_size", "max_seeks_for_key",
    "max_sort_length", "max_sp_recursion_depth", "max_statement_time", "max_tmp_tables",
    "min_examined_row_limit", "mrr_buffer_size", "multi_range_count", "myisam_sort_buffer_size",
    "myisam_stats_method", "ndb_join_pushdown", "net_buffer_length", "net_read_timeout", "net_retry_count",
    "net_write_timeout", "new", "note_verbosity", "old_alter_table", "old_mode", "old_passwords",
    "optimizer_max_subgraph_pairs", "optimizer_prune_level", "optimizer_search_depth",
    "optimizer_selectivity_sampling_limit", "optimizer_switch", "optimizer_trace_features",
    "optimizer_trace_limit", "optimizer_trace_max_mem_size", "optimizer_trace_offset",
    "optimizer_use_condition_selectivity", "parser_max_mem_size", "preload_buffer_size",
    "print_identified_with_as_hex", "profiling_history_size", "progress_report_time",
    "query_alloc_block_size", "query_cache_strip_comments", "query_cache_type",
    "query_cache_wlock_invalidate", "query_prealloc_size", "range_alloc_block_size",
    "range_optimizer_max_mem_size", "read_buffer_size", "read_rnd_buffer_size",
    "restrict_fk_on_non_standard_key", "resultset_metadata", "rowid_merge_buff_size",
    "secondary_engine_cost_threshold", "select_into_buffer_size", "select_into_disk_sync",
    "select_into_disk_sync_delay", "set_operations_buffer_size", "show_compatibility_56",
    "show_create_table_skip_secondary_engine", "show_create_table_verbosity",
    "show_gipk_in_create_table_and_information_schema", "show_old_temporals", "slow_query_log",
    "sort_buffer_size", "sql_auto_is_null", "sql_big_selects", "sql_buffer_result",
    "sql_generate_invisible_primary_key", "sql_if_exists", "sql_log_off", "sql_mode", "sql_notes",
    "sql_quote_show_create", "sql_require_primary_key", "sql_safe_updates", "sql_select_limit",
    "sql_warnings", "standard_compliant_cte", "storage_engine", "system_versioning_alter_history",
    "system_versioning_asof", "tcp_nodelay", "terminology_use_previous", "time_zone", "tmp_table_size",
    "transaction_alloc_block_size", "transaction_isolation", "transaction_prealloc_size",
    "transaction_read_only", "transaction_write_set_extraction", "tx_isolation", "tx_read_only",
    "unique_checks", "updatable_views_with_limit", "use_secondary_engine", "use_stat_tables",
    "wait_timeout", "windowing_use_high_precision", "xa_detach_on_prepare",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replayable_is_sorted_and_never_bound() {
        assert!(REPLAYABLE.is_sorted_by(|a, b| a < b));
        let both: Vec<_> = BOUND.iter().filter(|bound| REPLAYABLE.contains(&bound.name)).collect();
        assert!(both.iter().all(|bound| bound.neutral_is_replayable), "{both:?}");
        assert!(
            BOUND
                .iter()
                .filter(|bound| bound.neutral_is_replayable)
                .all(|bound| REPLAYABLE.contains(&bound.name))
        );
    }

    #[test]
    fn patterns_of_show_variables() {
        let check =
            |pattern: &str, expected: bool| assert_eq!(pattern_asks_identity(pattern), expected, "{pattern}");
        check("read_only", true);
        check("%read_only%", true);
        check("server_%", true);
        check("gtid%", true);
        check("hostname", false);
        check("server_id", false);
        check("port", true);
        check("sql_mode", false);
        check("%", false);
        check("max_allowed_packet", false);
        check("character_set%", false);
        check("lower_case_%", false);
        check("transaction_isolation", false);
    }

    #[test]
    fn companions_are_replayable() {
        assert!(COMPANIONS.iter().all(|(_, changed)| assigned(changed) == Assigned::Replayable));
    }
}
