//! Which names with a parenthesis behind them are functions of the server, per version. Anything else may be a stored
//! function, which may write. The lists were asked of real servers, not copied.

use super::Dialect;
use super::scan::Gap;

/// What a name with `(` behind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    /// No function: a keyword such as IN, or a type.
    Keyword,
    /// A built-in function without effects.
    Pure,
    /// A built-in function about the session, with the same answer everywhere.
    Session,
    Special(Special),
    /// With arguments a built-in function without effects, else unknown.
    PureOfSome,
    /// A stored or loadable function, a function of another version, or the name of a table.
    Unknown,
}

/// Built-in functions with effects, or whose answer belongs to one server or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Special {
    GetLock,
    ReleaseLock,
    ReleaseAllLocks,
    /// Asks about named locks.
    AskLock,
    LastInsertId,
    /// About the statement before.
    Previous,
    /// Waits for replication.
    Wait,
    LoadFile,
    /// Identity of a connection, a thread or a server.
    Identity,
    Sequence,
}

/// `name` is in lower case. `gap` is what stands before the parenthesis.
pub(super) fn call(name: &str, quoted: bool, gap: Gap, dialect: Dialect) -> Call {
    if let Some(special) = special(name, quoted, dialect) {
        return special;
    }
    if is_native(name, dialect) {
        return Call::Pure;
    }
    // The names below are words of the grammar; in quotes they are names of stored functions.
    if quoted {
        return Call::Unknown;
    }
    let adjacent = gap == Gap::None || (dialect.ignore_space && gap == Gap::Blanks);
    match name {
        "database" | "schema" | "user" => return Call::Session,
        "current_user" => return Call::Session,
        "session_user" | "system_user" if adjacent => return Call::Session,
        _ => {}
    }
    let (own_adjacent, own_grammar, own_keywords) = match dialect.mariadb {
        true => (MARIADB_ADJACENT, MARIADB_GRAMMAR, MARIADB_KEYWORDS),
        false => (MYSQL_ADJACENT, MYSQL_GRAMMAR, MYSQL_KEYWORDS),
    };
    let since = |list: &[(&str, u32)]| has_since(list, name, dialect.version);
    if ADJACENT.binary_search(&name).is_ok() || since(own_adjacent) {
        return if adjacent { Call::Pure } else { Call::Unknown };
    }
    if dialect.mariadb && MARIADB_GEOMETRY.contains(&name) {
        return Call::PureOfSome;
    }
    if GRAMMAR.binary_search(&name).is_ok() || since(own_grammar) {
        return Call::Pure;
    }
    if KEYWORDS.binary_search(&name).is_ok() || since(own_keywords) {
        return Call::Keyword;
    }
    Call::Unknown
}

/// Types that MySQL has as keywords and MariaDB does not: behind AS they are no functions.
pub(super) fn is_type(name: &str) -> bool {
    matches!(name, "datetime" | "nchar" | "fixed" | "bit" | "vector" | "text")
}

fn special(name: &str, quoted: bool, dialect: Dialect) -> Option<Call> {
    let special = match name {
        "get_lock" => Special::GetLock,
        "release_lock" => Special::ReleaseLock,
        "release_all_locks" => Special::ReleaseAllLocks,
        "is_free_lock" | "is_used_lock" => Special::AskLock,
        "last_insert_id" => Special::LastInsertId,
        "found_rows" => Special::Previous,
        "row_count" if !quoted => Special::Previous,
        "source_pos_wait"
        | "master_pos_wait"
        | "master_gtid_wait"
        | "wait_for_executed_gtid_set"
        | "wait_until_sql_thread_after_gtids" => Special::Wait,
        "load_file" => Special::LoadFile,
        "connection_id" | "ps_current_thread_id" | "ps_thread_id" | "binlog_gtid_pos" => Special::Identity,
        "nextval" | "lastval" | "setval" if dialect.mariadb => Special::Sequence,
        "version" => return Some(Call::Session),
        "current_role" if !(quoted && dialect.mariadb) => return Some(Call::Session),
        _ => return None,
    };
    Some(Call::Special(special))
}

/// Functions that are found by name and so may be quoted, and stand apart from their parenthesis.
fn is_native(name: &str, dialect: Dialect) -> bool {
    let version = dialect.version;
    COMMON.binary_search(&name).is_ok()
        || match dialect.mariadb {
            true => has_since(MARIADB, name, version),
            false => {
                has_since(MYSQL, name, version) || (version < 80_000 && BEFORE_8.binary_search(&name).is_ok())
            }
        }
}

fn has_since(list: &[(&str, u32)], name: &str, version: u32) -> bool {
    list.binary_search_by(|(found, _)| (*found).cmp(name)).is_ok_and(|at| list[at].1 <= version)
}

/// MySQL 5.7 to 9.x and MariaDB. MD5, SHA and SHA1 moved into a component in 9.6 and mean the same there.
#[rustfmt::skip]
const COMMON: &[&str] = &[
    "abs", "acos", "addtime", "aes_decrypt", "aes_encrypt", "asin", "atan", "atan2", "benchmark", "bin",
    "bit_count", "bit_length", "ceil", "ceiling", "char_length", "character_length", "coercibility",
    "compress", "concat", "concat_ws", "conv", "convert_tz", "cos", "cot", "crc32", "date_format",
    "datediff", "dayname", "dayofmonth", "dayofweek", "dayofyear", "degrees", "elt", "exp", "export_set",
    "extractvalue", "field", "find_in_set", "floor", "from_base64", "from_days", "from_unixtime",
    "greatest", "hex", "ifnull", "inet6_aton", "inet6_ntoa", "inet_aton", "inet_ntoa", "instr", "is_ipv4",
    "is_ipv4_compat", "is_ipv4_mapped", "is_ipv6", "isnull", "json_array", "json_array_insert",
    "json_contains", "json_contains_path", "json_depth", "json_extract", "json_insert", "json_keys",
    "json_length", "json_merge", "json_object", "json_quote", "json_remove", "json_replace", "json_search",
    "json_set", "json_type", "json_unquote", "json_valid", "last_day", "lcase", "least", "length", "ln",
    "locate", "log", "log10", "log2", "lower", "lpad", "ltrim", "make_set", "makedate", "maketime",
    "mbrcontains", "mbrdisjoint", "mbrequals", "mbrintersects", "mbrwithin", "md5", "monthname",
    "name_const", "nullif", "oct", "octet_length", "ord", "period_add", "period_diff", "pi", "pow",
    "power", "quote", "radians", "rand", "reverse", "round", "rpad", "rtrim", "sec_to_time", "sha", "sha1",
    "sha2", "sign", "sin", "sleep", "soundex", "space", "sqrt", "st_area", "st_asbinary", "st_astext",
    "st_buffer", "st_centroid", "st_contains", "st_convexhull", "st_crosses", "st_difference",
    "st_dimension", "st_disjoint", "st_distance", "st_endpoint", "st_envelope", "st_equals",
    "st_exteriorring", "st_geomcollfromtext", "st_geomcollfromwkb", "st_geometrycollectionfromtext",
    "st_geometrycollectionfromwkb", "st_geometryfromtext", "st_geometryfromwkb", "st_geometryn",
    "st_geometrytype", "st_geomfromtext", "st_geomfromwkb", "st_interiorringn", "st_intersection",
    "st_intersects", "st_isclosed", "st_isempty", "st_issimple", "st_length", "st_linefromtext",
    "st_linefromwkb", "st_linestringfromwkb", "st_numgeometries", "st_numinteriorrings", "st_numpoints",
    "st_overlaps", "st_pointfromtext", "st_pointfromwkb", "st_pointn", "st_polyfromtext", "st_polyfromwkb",
    "st_polygonfromtext", "st_polygonfromwkb", "st_srid", "st_startpoint", "st_symdifference",
    "st_touches", "st_union", "st_within", "st_x", "st_y", "str_to_date", "strcmp", "substring_index",
    "subtime", "tan", "time_format", "time_to_sec", "timediff", "to_base64", "to_days", "to_seconds",
    "ucase", "uncompress", "uncompressed_length", "unhex", "unix_timestamp", "updatexml", "upper", "uuid",
    "uuid_short", "weekday", "weekofyear", "yearweek",
];

/// MySQL only, with the first version that has it.
#[rustfmt::skip]
const MYSQL: &[(&str, u32)] = &[
    ("any_value", 0), ("bin_to_uuid", 80_000), ("current_role_in", 90_600), ("current_user_in", 90_600),
    ("etag", 90_300), ("format_bytes", 80_016), ("format_pico_time", 80_016), ("from_vector", 90_000),
    ("gtid_subset", 0), ("gtid_subtract", 0), ("icu_version", 80_000), ("is_uuid", 80_000),
    ("json_array_append", 0), ("json_merge_patch", 50_722), ("json_merge_preserve", 50_722),
    ("json_overlaps", 80_017), ("json_pretty", 50_722), ("json_schema_valid", 80_017),
    ("json_schema_validation_report", 80_017), ("json_storage_free", 80_002),
    ("json_storage_size", 50_722), ("mbrcoveredby", 0), ("mbrcovers", 0), ("mbroverlaps", 0),
    ("mbrtouches", 0), ("random_bytes", 0), ("regexp_instr", 80_000), ("regexp_like", 80_000),
    ("regexp_replace", 80_004), ("regexp_substr", 80_004), ("roles_graphml", 80_000), ("st_asgeojson", 0),
    ("st_aswkb", 0), ("st_aswkt", 0), ("st_buffer_strategy", 0), ("st_distance_sphere", 0),
    ("st_frechetdistance", 80_023), ("st_geohash", 0), ("st_geomcollfromtxt", 0),
    ("st_geomfromgeojson", 0), ("st_hausdorffdistance", 80_023), ("st_isvalid", 0),
    ("st_latfromgeohash", 0), ("st_latitude", 80_012), ("st_lineinterpolatepoint", 80_024),
    ("st_lineinterpolatepoints", 80_024), ("st_linestringfromtext", 0), ("st_longfromgeohash", 0),
    ("st_longitude", 80_012), ("st_makeenvelope", 0), ("st_mlinefromtext", 0), ("st_mlinefromwkb", 0),
    ("st_mpointfromtext", 0), ("st_mpointfromwkb", 0), ("st_mpolyfromtext", 0), ("st_mpolyfromwkb", 0),
    ("st_multilinestringfromtext", 0), ("st_multilinestringfromwkb", 0), ("st_multipointfromtext", 0),
    ("st_multipointfromwkb", 0), ("st_multipolygonfromtext", 0), ("st_multipolygonfromwkb", 0),
    ("st_numinteriorring", 0), ("st_pointatdistance", 80_024), ("st_pointfromgeohash", 0),
    ("st_simplify", 0), ("st_swapxy", 80_000), ("st_transform", 80_013), ("st_validate", 0),
    ("statement_digest", 80_000), ("statement_digest_text", 80_000), ("string_to_vector", 90_000),
    ("to_vector", 90_000), ("uuid_to_bin", 80_000), ("validate_password_strength", 0),
    ("vector_dim", 90_000), ("vector_to_string", 90_000),
];

/// MySQL 5.7 and earlier.
#[rustfmt::skip]
const BEFORE_8: &[&str] = &[
    "area", "asbinary", "astext", "aswkb", "aswkt", "buffer", "centroid", "contains", "convexhull",
    "crosses", "decode", "des_decrypt", "des_encrypt", "dimension", "disjoint", "distance", "encode",
    "encrypt", "endpoint", "envelope", "equals", "exteriorring", "geomcollfromtext", "geomcollfromwkb",
    "geometrycollectionfromtext", "geometrycollectionfromwkb", "geometryfromtext", "geometryfromwkb",
    "geometryn", "geometrytype", "geomfromtext", "geomfromwkb", "glength", "interiorringn", "intersects",
    "isclosed", "isempty", "issimple", "json_append", "linefromtext", "linefromwkb", "linestringfromtext",
    "linestringfromwkb", "mbrequal", "mlinefromtext", "mlinefromwkb", "mpointfromtext", "mpointfromwkb",
    "mpolyfromtext", "mpolyfromwkb", "multilinestringfromtext", "multilinestringfromwkb",
    "multipointfromtext", "multipointfromwkb", "multipolygonfromtext", "multipolygonfromwkb",
    "numgeometries", "numinteriorrings", "numpoints", "old_password", "overlaps", "pointfromtext",
    "pointfromwkb", "pointn", "polyfromtext", "polyfromwkb", "polygonfromtext", "polygonfromwkb", "srid",
    "startpoint", "touches", "within", "x", "y",
];

/// MariaDB only, with the first version that has it.
#[rustfmt::skip]
const MARIADB: &[(&str, u32)] = &[
    ("add_months", 100_601), ("area", 0), ("asbinary", 0), ("astext", 0), ("aswkb", 0), ("aswkt", 0),
    ("buffer", 0), ("centroid", 0), ("chr", 100_303), ("concat_operator_oracle", 101_118), ("contains", 0),
    ("convexhull", 0), ("crc32c", 100_800), ("crosses", 0), ("decode", 0), ("decode_histogram", 100_300),
    ("decode_oracle", 100_303), ("des_decrypt", 0), ("des_encrypt", 0), ("dimension", 0), ("disjoint", 0),
    ("encode", 0), ("encrypt", 0), ("endpoint", 0), ("envelope", 0), ("equals", 0), ("exteriorring", 0),
    ("format_bytes", 110_800), ("format_pico_time", 110_000), ("geomcollfromtext", 0),
    ("geomcollfromwkb", 0), ("geometrycollectionfromtext", 0), ("geometrycollectionfromwkb", 0),
    ("geometryfromtext", 0), ("geometryfromwkb", 0), ("geometryn", 0), ("geometrytype", 0),
    ("geomfromtext", 0), ("geomfromwkb", 0), ("glength", 0), ("interiorringn", 0), ("intersects", 0),
    ("isclosed", 0), ("isempty", 0), ("issimple", 0), ("json_array_append", 100_203),
    ("json_array_intersect", 110_200), ("json_compact", 100_203), ("json_detailed", 100_203),
    ("json_equals", 100_700), ("json_exists", 100_203), ("json_key_value", 110_200),
    ("json_loose", 100_203), ("json_merge_patch", 100_203), ("json_merge_preserve", 100_203),
    ("json_normalize", 100_700), ("json_object_filter_keys", 110_200), ("json_object_to_array", 110_200),
    ("json_overlaps", 100_900), ("json_pretty", 101_003), ("json_query", 100_203),
    ("json_schema_valid", 110_100), ("json_value", 100_203), ("kdf", 110_300), ("lengthb", 100_303),
    ("linefromtext", 0), ("linefromwkb", 0), ("linestringfromtext", 0), ("linestringfromwkb", 0),
    ("lpad_oracle", 101_118), ("ltrim_oracle", 101_118), ("mbrequal", 0), ("mbroverlaps", 101_118),
    ("mbrtouches", 101_118), ("mlinefromtext", 0), ("mlinefromwkb", 0), ("mpointfromtext", 0),
    ("mpointfromwkb", 0), ("mpolyfromtext", 0), ("mpolyfromwkb", 0), ("multilinestringfromtext", 0),
    ("multilinestringfromwkb", 0), ("multipointfromtext", 0), ("multipointfromwkb", 0),
    ("multipolygonfromtext", 0), ("multipolygonfromwkb", 0), ("natural_sort_key", 100_700),
    ("numgeometries", 0), ("numinteriorrings", 0), ("numpoints", 0), ("nvl", 100_303), ("nvl2", 100_303),
    ("old_password", 0), ("overlaps", 0), ("pointfromtext", 0), ("pointfromwkb", 0), ("pointn", 0),
    ("polyfromtext", 0), ("polyfromwkb", 0), ("polygonfromtext", 0), ("polygonfromwkb", 0),
    ("random_bytes", 101_000), ("regexp_instr", 100_005), ("regexp_replace", 100_005),
    ("regexp_substr", 100_005), ("replace_oracle", 101_118), ("rpad_oracle", 101_118),
    ("rtrim_oracle", 101_118), ("sformat", 100_700), ("srid", 0), ("st_asgeojson", 100_200),
    ("st_aswkb", 0), ("st_aswkt", 0), ("st_boundary", 100_102), ("st_collect", 120_000),
    ("st_distance_sphere", 100_408), ("st_geohash", 120_000), ("st_geomfromgeojson", 100_200),
    ("st_isring", 100_102), ("st_isvalid", 120_000), ("st_latfromgeohash", 120_000),
    ("st_linestringfromtext", 101_118), ("st_longfromgeohash", 120_000), ("st_mlinefromtext", 101_118),
    ("st_mlinefromwkb", 101_118), ("st_mpointfromtext", 101_118), ("st_mpointfromwkb", 101_118),
    ("st_mpolyfromtext", 101_118), ("st_mpolyfromwkb", 101_118), ("st_multilinestringfromtext", 101_118),
    ("st_multilinestringfromwkb", 101_118), ("st_multipointfromtext", 101_118),
    ("st_multipointfromwkb", 101_118), ("st_multipolygonfromtext", 101_118),
    ("st_multipolygonfromwkb", 101_118), ("st_pointfromgeohash", 120_000), ("st_pointonsurface", 100_102),
    ("st_relate", 100_102), ("st_simplify", 120_000), ("st_validate", 120_000), ("startpoint", 0),
    ("substr_oracle", 101_118), ("sys_guid", 100_601), ("to_char", 100_601), ("touches", 0),
    ("uuid_v4", 110_700), ("uuid_v7", 110_700), ("vec_distance", 110_700),
    ("vec_distance_cosine", 110_700), ("vec_distance_euclidean", 110_700), ("vec_fromtext", 110_700),
    ("vec_totext", 110_700), ("within", 0), ("x", 0), ("y", 0),
];

/// Words of the grammar that are functions only with the parenthesis directly behind them.
#[rustfmt::skip]
const ADJACENT: &[&str] = &[
    "adddate", "bit_and", "bit_or", "bit_xor", "cast", "count", "curdate", "curtime", "date_add",
    "date_sub", "extract", "group_concat", "max", "mid", "min", "now", "position", "std", "stddev",
    "stddev_pop", "stddev_samp", "subdate", "substr", "substring", "sum", "trim", "var_pop", "var_samp",
    "variance",
];

#[rustfmt::skip]
const MYSQL_ADJACENT: &[(&str, u32)] = &[
    ("json_arrayagg", 50_722), ("json_duality_object", 90_400), ("json_objectagg", 50_722),
    ("st_collect", 80_024), ("sysdate", 0),
];

#[rustfmt::skip]
const MARIADB_ADJACENT: &[(&str, u32)] = &[
    ("cume_dist", 100_202), ("dense_rank", 100_202), ("first_value", 100_202), ("json_arrayagg", 100_500),
    ("json_objectagg", 100_500), ("lag", 100_202), ("lead", 100_202), ("median", 100_303),
    ("nth_value", 100_202), ("ntile", 100_202), ("percent_rank", 100_202), ("percentile_cont", 100_303),
    ("percentile_disc", 100_303), ("rank", 100_202), ("row_number", 100_202), ("trim_oracle", 100_303),
];

/// Words of the grammar that are functions, blanks or not.
#[rustfmt::skip]
const GRAMMAR: &[&str] = &[
    "ascii", "avg", "char", "character", "charset", "coalesce", "collation", "convert", "current_date",
    "current_time", "current_timestamp", "date", "day", "default", "format", "get_format", "hour", "if",
    "insert", "interval", "left", "localtime", "localtimestamp", "match", "microsecond", "minute", "mod",
    "month", "password", "quarter", "repeat", "replace", "right", "second", "sql_tsi_day", "sql_tsi_hour",
    "sql_tsi_minute", "sql_tsi_month", "sql_tsi_second", "sql_tsi_year", "time", "timestamp",
    "timestampadd", "timestampdiff", "truncate", "utc_date", "utc_time", "utc_timestamp", "week",
    "weight_string", "year",
];

#[rustfmt::skip]
const MYSQL_GRAMMAR: &[(&str, u32)] = &[
    ("cume_dist", 80_002), ("dense_rank", 80_002), ("first_value", 80_002), ("geomcollection", 80_000),
    ("geometrycollection", 0), ("grouping", 80_001), ("json_table", 80_004), ("json_value", 80_021),
    ("lag", 80_002), ("last_value", 80_002), ("lead", 80_002), ("linestring", 0), ("multilinestring", 0),
    ("multipoint", 0), ("multipolygon", 0), ("nth_value", 80_002), ("ntile", 80_002),
    ("percent_rank", 80_002), ("point", 0), ("polygon", 0), ("rank", 80_002), ("row_number", 80_002),
    ("sql_tsi_quarter", 0), ("sql_tsi_week", 0),
];

#[rustfmt::skip]
const MARIADB_GRAMMAR: &[(&str, u32)] = &[
    ("column_add", 0), ("column_check", 0), ("column_create", 0), ("column_delete", 0),
    ("column_exists", 0), ("column_get", 0), ("column_json", 0), ("column_list", 0),
    ("last_value", 100_202), ("rownum", 100_600), ("sysdate", 0),
];

/// Reserved words that may have a parenthesis behind them without being functions.
#[rustfmt::skip]
const KEYWORDS: &[&str] = &[
    "all", "and", "as", "between", "bigint", "binary", "both", "by", "case", "dec", "decimal", "distinct",
    "distinctrow", "div", "double", "else", "exists", "float", "float4", "float8", "from", "having",
    "high_priority", "in", "index", "int", "int1", "int2", "int3", "int4", "int8", "integer", "into",
    "join", "key", "leading", "like", "mediumint", "not", "numeric", "on", "or", "partition", "precision",
    "real", "regexp", "rlike", "select", "smallint", "sql_big_result", "sql_buffer_result",
    "sql_calc_found_rows", "sql_no_cache", "sql_small_result", "straight_join", "then", "tinyint",
    "trailing", "union", "using", "values", "varbinary", "varchar", "varying", "when", "where", "xor",
];

/// The same, words of MySQL only: there a keyword without quotes is never the name of a stored function.
#[rustfmt::skip]
const MYSQL_KEYWORDS: &[(&str, u32)] = &[
    ("against", 0), ("any", 0), ("bit", 0), ("blob", 0), ("columns", 0), ("cube", 80_001), ("datetime", 0),
    ("enum", 0), ("escape", 0), ("except", 80_031), ("fixed", 0), ("intersect", 80_031),
    ("lateral", 80_014), ("national", 0), ("nchar", 0), ("of", 0), ("over", 80_002), ("rollup", 0),
    ("row", 0), ("some", 0), ("text", 0), ("tinytext", 0), ("vector", 90_000),
];

/// Functions of MariaDB only with arguments. POINT is one with two, and a shape of literals does not count them.
const MARIADB_GEOMETRY: [&str; 6] =
    ["geometrycollection", "linestring", "multilinestring", "multipoint", "multipolygon", "polygon"];

/// MariaDB takes other keywords for names of stored functions.
const MARIADB_KEYWORDS: &[(&str, u32)] = &[
    ("except", 0),
    ("group", 0),
    ("intersect", 0),
    ("over", 0),
    ("row", 0),
    ("sql_cache", 0),
    ("unique", 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted_and_disjoint() {
        let plain: [&[&str]; 5] = [COMMON, BEFORE_8, ADJACENT, GRAMMAR, KEYWORDS];
        let dated = [
            MYSQL,
            MARIADB,
            MYSQL_ADJACENT,
            MARIADB_ADJACENT,
            MYSQL_GRAMMAR,
            MARIADB_GRAMMAR,
            MYSQL_KEYWORDS,
            MARIADB_KEYWORDS,
        ];
        for list in plain {
            assert!(list.is_sorted_by(|a, b| a < b), "{:?}", list.windows(2).find(|pair| pair[0] >= pair[1]));
        }
        for list in dated {
            assert!(
                list.is_sorted_by(|a, b| a.0 < b.0),
                "{:?}",
                list.windows(2).find(|pair| pair[0].0 >= pair[1].0)
            );
        }
        assert!(!COMMON.iter().any(|name| GRAMMAR.contains(name) || KEYWORDS.contains(name)));
    }

    #[test]
    fn versions_decide() {
        let mysql = |version| Dialect { version, ..Dialect::for_tests() };
        let maria = |version| Dialect { version, mariadb: true, ..Dialect::for_tests() };
        let check = |name: &str, dialect: Dialect, expected: Call| {
            assert_eq!(call(name, false, Gap::None, dialect), expected, "{name} {}", dialect.version);
        };
        check("string_to_vector", mysql(90_000), Call::Pure);
        check("string_to_vector", mysql(80_036), Call::Unknown);
        check("rank", mysql(50_744), Call::Unknown);
        check("rank", mysql(80_036), Call::Pure);
        check("x", mysql(50_744), Call::Pure);
        check("x", mysql(80_036), Call::Unknown);
        check("md5", mysql(90_704), Call::Pure);
        check("nvl", mysql(90_704), Call::Unknown);
        check("nvl", maria(101_100), Call::Pure);
        check("gtid_subset", maria(101_100), Call::Unknown);
        check("lateral", mysql(50_744), Call::Unknown);
        check("columns", maria(101_100), Call::Unknown);
        check("columns", mysql(80_036), Call::Keyword);
        assert_eq!(call("count", false, Gap::Blanks, mysql(80_036)), Call::Unknown);
        assert_eq!(call("abs", false, Gap::Blanks, mysql(80_036)), Call::Pure);
        assert_eq!(call("now", true, Gap::None, mysql(80_036)), Call::Unknown);
        assert_eq!(call("abs", true, Gap::None, mysql(80_036)), Call::Pure);
    }
}
