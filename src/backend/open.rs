//! Opens a connection for a pool: logs in, turns the trackers on, reads what the login left in the character set
//! variables.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use crate::model::server::Address;
use crate::model::settings::Settings;
use crate::wire::packet::{ErrPacket, Reader, push_packet, read_packet};
use crate::wire::stream::Stream;
use crate::wire::tracker::{Answer, Format, Next, Tracker};

use super::connect::{ConnectError, Connector, Request};
use super::connection::{Connection, Identity, PreparedCache};
use super::reset::query_head;

/// Session variables whose assignments the server reports to us, so that they can be replayed. All that a session may
/// set and another connection can be told; what must not be replayed pins instead (`sql::Cause::Variable`).
const TRACKED: &[&str] = &[
    "autocommit",
    "auto_increment_increment",
    "auto_increment_offset",
    "big_tables",
    "binlog_direct_non_transactional_updates",
    "binlog_row_image",
    "binlog_rows_query_log_events",
    "block_encryption_mode",
    "bulk_insert_buffer_size",
    "character_set_client",
    "character_set_connection",
    "character_set_database",
    "character_set_filesystem",
    "character_set_results",
    "character_set_server",
    "collation_connection",
    "collation_database",
    "collation_server",
    "completion_type",
    "cte_max_recursion_depth",
    "default_collation_for_utf8mb4",
    "default_storage_engine",
    "default_tmp_storage_engine",
    "default_week_format",
    "div_precision_increment",
    "end_markers_in_json",
    "eq_range_index_dive_limit",
    "explain_format",
    "explain_json_format_version",
    "explicit_defaults_for_timestamp",
    "foreign_key_checks",
    "generated_random_password_length",
    "group_concat_max_len",
    "high_priority_updates",
    "information_schema_stats_expiry",
    "innodb_ft_enable_stopword",
    "innodb_ft_user_stopword_table",
    "innodb_lock_wait_timeout",
    "innodb_strict_mode",
    "innodb_table_locks",
    "interactive_timeout",
    "join_buffer_size",
    "keep_files_on_create",
    "lc_messages",
    "lc_time_names",
    "lock_wait_timeout",
    "long_query_time",
    "low_priority_updates",
    "max_delayed_threads",
    "max_error_count",
    "max_execution_time",
    "max_heap_table_size",
    "max_insert_delayed_threads",
    "max_join_size",
    "max_length_for_sort_data",
    "max_points_in_geometry",
    "max_seeks_for_key",
    "max_sort_length",
    "max_sp_recursion_depth",
    "min_examined_row_limit",
    "myisam_repair_threads",
    "myisam_sort_buffer_size",
    "myisam_stats_method",
    "net_buffer_length",
    "net_read_timeout",
    "net_retry_count",
    "net_write_timeout",
    "new",
    "old_alter_table",
    "optimizer_prune_level",
    "optimizer_search_depth",
    "optimizer_switch",
    "optimizer_trace",
    "optimizer_trace_features",
    "optimizer_trace_limit",
    "optimizer_trace_max_mem_size",
    "optimizer_trace_offset",
    "parser_max_mem_size",
    "preload_buffer_size",
    "print_identified_with_as_hex",
    "query_alloc_block_size",
    "query_prealloc_size",
    "range_alloc_block_size",
    "range_optimizer_max_mem_size",
    "read_buffer_size",
    "read_rnd_buffer_size",
    "restrict_fk_on_non_standard_key",
    "resultset_metadata",
    "secondary_engine_cost_threshold",
    "select_into_buffer_size",
    "select_into_disk_sync",
    "select_into_disk_sync_delay",
    "set_operations_buffer_size",
    "show_create_table_skip_secondary_engine",
    "show_create_table_verbosity",
    "show_gipk_in_create_table_and_information_schema",
    "show_old_temporals",
    "sort_buffer_size",
    "sql_auto_is_null",
    "sql_big_selects",
    "sql_buffer_result",
    "sql_generate_invisible_primary_key",
    "sql_log_off",
    "sql_mode",
    "sql_notes",
    "sql_quote_show_create",
    "sql_require_primary_key",
    "sql_safe_updates",
    "sql_select_limit",
    "sql_warnings",
    "terminology_use_previous",
    "time_zone",
    "tmp_table_size",
    "transaction_alloc_block_size",
    "transaction_isolation",
    "transaction_prealloc_size",
    "transaction_read_only",
    "unique_checks",
    "updatable_views_with_limit",
    "use_secondary_engine",
    "wait_timeout",
    "windowing_use_high_precision",
    "xa_detach_on_prepare",
];

const CHARSET: [&str; 4] =
    ["character_set_client", "character_set_connection", "character_set_results", "collation_connection"];

/// Opens and prepares one connection. `settings.schema` becomes its schema.
pub(crate) async fn open(
    connector: &Connector,
    address: &Address,
    identity: &Arc<Identity>,
    settings: &Settings,
) -> Result<Connection, ConnectError> {
    let request = Request {
        address,
        credentials: &identity.credentials,
        capabilities: identity.capabilities,
        collation: identity.collation,
        schema: settings.schema.as_deref(),
        attributes: &identity.attributes,
    };
    let connected = connector.connect(request).await?;
    let mut connection = Connection {
        stream: connected.stream,
        thread_id: connected.thread_id,
        capabilities: connected.capabilities,
        identity: Arc::clone(identity),
        applied: Arc::new(Settings::with_schema(settings.schema.clone())),
        initial_charset: Arc::new([]),
        prepared: PreparedCache::default(),
        idle_since: Instant::now(),
    };
    let prepared = timeout(connector.timeout(), prepare(&mut connection)).await;
    connection.initial_charset = prepared.map_err(|_| ConnectError::timed_out())??;
    Ok(connection)
}

/// Runs one statement of our own on a connection that is between statements; the payloads of its answer's packets.
/// For the few statements beside the data path; the caller sets the deadline.
pub(crate) async fn query(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<u8>>, ConnectError> {
    let mut command = query_head(connection.capabilities);
    command.extend_from_slice(sql.as_bytes());
    let mut out = Vec::new();
    push_packet(&mut out, 0, &command);
    connection.stream.write_all(&out).await.map_err(ConnectError::io)?;
    let format = connection.format();
    read_answer(&mut connection.stream, Answer::Results, format).await
}

async fn prepare(connection: &mut Connection) -> Result<Arc<[(&'static str, Box<[u8]>)]>, ConnectError> {
    let track = format!(
        "SET SESSION session_track_schema=ON, session_track_state_change=ON, session_track_gtids=OWN_GTID, \
         session_track_system_variables='{}'",
        TRACKED.join(",")
    );
    query(connection, &track).await?;
    let select = format!("SELECT {}", CHARSET.map(|name| format!("IFNULL(@@SESSION.{name},'')")).join(","));
    let packets = query(connection, &select).await?;
    let row = packets.iter().rev().nth(1).ok_or_else(|| ConnectError::protocol("a row was expected"))?;
    let mut reader = Reader::new(row);
    let mut values = Vec::new();
    for name in CHARSET {
        let value =
            reader.lenenc_bytes().map_err(|_| ConnectError::protocol("a row of four texts was expected"))?;
        values.push((name, Box::from(value)));
    }
    Ok(values.into())
}

async fn read_answer(
    stream: &mut Stream,
    answer: Answer,
    format: Format,
) -> Result<Vec<Vec<u8>>, ConnectError> {
    /// Our own statements have answers of a few short rows.
    const LIMIT: usize = 1 << 20;
    let mut tracker = Tracker::new(answer, format);
    let mut packets = Vec::new();
    while !tracker.is_over() {
        let packet = read_packet(stream, LIMIT).await.map_err(ConnectError::wire)?;
        if let Some(error) = ErrPacket::parse(&packet.payload) {
            return Err(ConnectError::refused(error));
        }
        let mut whole = Vec::new();
        push_packet(&mut whole, packet.sequence, &packet.payload);
        let mut at = 0;
        while at < whole.len() {
            match tracker.next(&whole[at..]) {
                Ok(Next::Pass(size) | Next::Packet(size, _)) => at += size,
                _ => return Err(ConnectError::protocol("an answer that does not fit its statement")),
            }
        }
        packets.push(packet.payload);
    }
    Ok(packets)
}
