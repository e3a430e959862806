import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;

/** The checks with Connector/J behind HikariCP, by client-side and by server-side prepared statements. */
final class Client {
  static final String SCHEMA = System.getenv("CLIENT_SCHEMA");
  static final String[] COLUMNS =
      "id tiny small big huge wide narrow exact flags day moment span vintage word bytes document choice several"
          .split(" ");
  static final Object[][] EXPECTED = {
    {
      1, -128, 65535, Long.MIN_VALUE, new BigInteger("18446744073709551615"), -1.5e300, 0.5f,
      new BigDecimal("12345678901234567890123456.0123456789"), new byte[] {2, 1}, LocalDate.of(2024, 2, 29),
      LocalDateTime.of(2024, 12, 31, 23, 59, 59, 123456000), "-12:34:56.123456", 2155, "Grüße 😀 '\"\\%",
      new byte[] {0, -1, 0x27, 0x5c, 0x22, 0x0a, 0x1a}, "{\"a\": [1, null, \"ü\"], \"b\": 1.5}", "b", "x,z"
    },
    {
      2, 0, 0, 0L, BigInteger.ZERO, 0.0, -0.25f, new BigDecimal("-0.0000000001"), new byte[] {0, 0},
      LocalDate.of(1000, 1, 1), LocalDateTime.of(1000, 1, 1, 0, 0), "00:00:00.000000", 1901, "", new byte[0], "[]", "a", ""
    },
    {3, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null},
  };
  static final byte[] BLOB = blob();

  interface Check {
    void run() throws Exception;
  }

  static String url(String options) {
    String tls = System.getenv("CLIENT_TLS").equals("on") ? "REQUIRED" : "DISABLED";
    return "jdbc:mysql://" + System.getenv("CLIENT_HOST") + ":" + System.getenv("CLIENT_PORT") + "/" + SCHEMA
        + "?sslMode=" + tls + "&allowPublicKeyRetrieval=true&allowLoadLocalInfile=true&yearIsDateType=false" + options;
  }

  static final String[] WAYS = {"", "&useServerPrepStmts=true&cachePrepStmts=true"};

  static Connection connect(String options) throws SQLException {
    return DriverManager.getConnection(url(options), System.getenv("CLIENT_USER"), System.getenv("CLIENT_PASSWORD"));
  }

  static int run(Connection session, String sql, Object... arguments) throws SQLException {
    try (PreparedStatement statement = session.prepareStatement(sql)) {
      set(statement, arguments);
      return statement.executeUpdate();
    }
  }

  static void set(PreparedStatement statement, Object... arguments) throws SQLException {
    for (int at = 0; at < arguments.length; at++) {
      if (arguments[at] == null) {
        statement.setNull(at + 1, Types.VARCHAR);
      } else {
        statement.setObject(at + 1, arguments[at]);
      }
    }
  }

  static String one(Connection session, String sql, Object... arguments) throws SQLException {
    try (PreparedStatement statement = session.prepareStatement(sql)) {
      set(statement, arguments);
      try (ResultSet rows = statement.executeQuery()) {
        equal(rows.next(), true);
        return rows.getString(1);
      }
    }
  }

  static void equal(Object found, Object wanted) {
    if (!Objects.deepEquals(found, wanted)) {
      throw new AssertionError(found + ", not " + wanted);
    }
  }

  static void refused(int code, String state, Check work) throws Exception {
    try {
      work.run();
    } catch (SQLException error) {
      equal(error.getErrorCode() + " " + error.getSQLState(), code + " " + state);
      return;
    }
    throw new AssertionError("no error " + code);
  }

  static void types(String options) throws Exception {
    try (Connection session = connect(options)) {
      run(session, "DELETE FROM types");
      for (Object[] row : EXPECTED) {
        run(session, "INSERT INTO types VALUES (?" + ", ?".repeat(COLUMNS.length - 1) + ")", row);
      }
      equal(one(session, "SELECT COUNT(*) FROM same"), "3");
      try (PreparedStatement statement = session.prepareStatement("SELECT * FROM types WHERE id > ? ORDER BY id")) {
        statement.setInt(1, 0);
        try (ResultSet rows = statement.executeQuery()) {
          for (Object[] wanted : EXPECTED) {
            equal(rows.next(), true);
            for (int at = 0; at < COLUMNS.length; at++) {
              Object found =
                  switch (COLUMNS[at]) {
                    case "bytes", "flags" -> rows.getBytes(at + 1);
                    case "span" -> rows.getString(at + 1);
                    case "huge" -> rows.getObject(at + 1, BigInteger.class);
                    case "day" -> rows.getObject(at + 1, LocalDate.class);
                    case "moment" -> rows.getObject(at + 1, LocalDateTime.class);
                    default -> rows.getObject(at + 1);
                  };
              if (COLUMNS[at].equals("span") && "00:00:00".equals(found)) {
                continue;
              }
              if (wanted[at] instanceof Integer && found != null) {
                found = ((Number) found).intValue();
              }
              if (found != null && COLUMNS[at].equals("narrow")) {
                found = ((Number) found).floatValue();
              }
              if (!Objects.deepEquals(found, wanted[at])) {
                throw new AssertionError(COLUMNS[at] + ": " + found + ", not " + wanted[at]);
              }
            }
          }
        }
      }
    }
  }

  static void ownWrites() throws Exception {
    for (String way : WAYS) {
      try (Connection session = connect(way)) {
        run(session, "DELETE FROM notes");
        for (int number = 0; number < 25; number++) {
          run(session, "INSERT INTO notes (word) VALUES (?)", "own " + number);
          equal(one(session, "SELECT word FROM notes WHERE word = ?", "own " + number), "own " + number);
          equal(one(session, "SELECT COUNT(*) FROM notes"), String.valueOf(number + 1));
        }
      }
    }
  }

  static void transaction() throws Exception {
    try (Connection session = connect(WAYS[1])) {
      run(session, "DELETE FROM notes");
      session.setAutoCommit(false);
      run(session, "INSERT INTO notes (word) VALUES (?)", "undone");
      equal(one(session, "SELECT COUNT(*) FROM notes"), "1");
      session.rollback();
      equal(one(session, "SELECT COUNT(*) FROM notes"), "0");
      session.commit();
      session.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
      run(session, "INSERT INTO notes (word) VALUES (?)", "kept");
      var here = session.setSavepoint("here");
      run(session, "INSERT INTO notes (word) VALUES (?)", "undone");
      session.rollback(here);
      session.commit();
      equal(one(session, "SELECT GROUP_CONCAT(word) FROM notes"), "kept");
      session.commit();
      // The driver itself refuses writes of a read-only connection, and tells the server so.
      session.setReadOnly(true);
      equal(one(session, "SELECT word FROM notes"), "kept");
      refused(0, "S1009", () -> run(session, "DELETE FROM notes"));
      session.commit();
      session.setReadOnly(false);
      session.setAutoCommit(true);
      run(session, "START TRANSACTION READ ONLY");
      equal(one(session, "SELECT word FROM notes"), "kept");
      refused(1792, "25006", () -> run(session, "DELETE FROM notes"));
      run(session, "ROLLBACK");
      equal(one(session, "SELECT COUNT(*) FROM notes"), "1");
    }
  }

  static void largeObjects() throws Exception {
    for (String way : WAYS) {
      try (Connection session = connect(way)) {
        run(session, "DELETE FROM blobs");
        run(session, "INSERT INTO blobs VALUES (?, ?)", 1, BLOB);
        try (PreparedStatement statement = session.prepareStatement("INSERT INTO blobs VALUES (?, ?)")) {
          statement.setInt(1, 2);
          // In pieces: COM_STMT_SEND_LONG_DATA.
          statement.setBinaryStream(2, new java.io.ByteArrayInputStream(BLOB));
          statement.executeUpdate();
        }
        for (int id = 1; id <= 2; id++) {
          try (PreparedStatement statement = session.prepareStatement("SELECT body FROM blobs WHERE id = ?")) {
            statement.setInt(1, id);
            ResultSet rows = statement.executeQuery();
            equal(rows.next() && Arrays.equals(rows.getBytes(1), BLOB), true);
          }
        }
        run(session, "DELETE FROM blobs");
      }
    }
  }

  static void procedure() throws Exception {
    try (Connection session = connect(WAYS[1])) {
      run(session, "DELETE FROM notes");
      try (var call = session.prepareCall("{CALL several(?, ?)}")) {
        call.setInt(1, 7);
        call.registerOutParameter(2, Types.INTEGER);
        List<String> words = new ArrayList<>();
        for (boolean more = call.execute(); more; more = call.getMoreResults()) {
          for (ResultSet rows = call.getResultSet(); rows.next(); ) {
            words.add(rows.getString(1));
          }
        }
        equal(words, List.of("7", "8", "second"));
        equal(call.getInt(2), 14);
      }
      equal(one(session, "SELECT COUNT(*) FROM notes"), "1");
    }
  }

  static void batch() throws Exception {
    for (String way : new String[] {WAYS[0], "&rewriteBatchedStatements=true", WAYS[1] + "&rewriteBatchedStatements=true"}) {
      try (Connection session = connect(way)) {
        run(session, "DELETE FROM notes");
        String sql = "INSERT INTO notes (word) VALUES (?)";
        try (PreparedStatement statement = session.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
          for (int number = 0; number < 1000; number++) {
            statement.setString(1, "batch " + number);
            statement.addBatch();
          }
          equal(statement.executeBatch().length, 1000);
          long last = 0;
          for (ResultSet keys = statement.getGeneratedKeys(); keys.next(); ) {
            last = keys.getLong(1);
          }
          equal(one(session, "SELECT word FROM notes WHERE id = ?", last), "batch 999");
        }
        equal(one(session, "SELECT COUNT(*) FROM notes"), "1000");
      }
    }
    // Rows fetched a few at a time, by a cursor at the server.
    try (Connection session = connect(WAYS[1] + "&useCursorFetch=true&defaultFetchSize=100")) {
      try (PreparedStatement statement = session.prepareStatement("SELECT id FROM notes ORDER BY id");
          ResultSet rows = statement.executeQuery()) {
        int count = 0;
        while (rows.next()) {
          count++;
        }
        equal(count, 1000);
      }
    }
  }

  static void localInfile() throws Exception {
    try (Connection session = connect(""); Statement statement = session.createStatement()) {
      run(session, "DELETE FROM notes");
      String file = System.getenv("CLIENT_ROWS");
      equal(statement.executeUpdate("LOAD DATA LOCAL INFILE '" + file + "' INTO TABLE notes (word)"), 1000);
      equal(one(session, "SELECT COUNT(*) FROM notes"), "1000");
    }
  }

  static void errors() throws Exception {
    for (String way : WAYS) {
      try (Connection session = connect(way)) {
        run(session, "DELETE FROM notes");
        run(session, "INSERT INTO notes (word) VALUES (?)", "one");
        refused(1062, "23000", () -> run(session, "INSERT INTO notes (word) VALUES (?)", "one"));
        refused(1146, "42S02", () -> one(session, "SELECT * FROM nothing WHERE a = ?", 1));
        refused(1064, "42000", () -> run(session, "SELEKT ?", 1));
        equal(one(session, "SELECT word FROM notes"), "one");
      }
    }
  }

  static void cancel() throws Exception {
    try (Connection session = connect("")) {
      // The driver opens a second connection and says KILL QUERY.
      try (Statement statement = session.createStatement()) {
        statement.setQueryTimeout(1);
        try {
          statement.executeQuery("SELECT SLEEP(60) FROM expected");
          throw new AssertionError("it slept");
        } catch (java.sql.SQLTimeoutException expected) {
          equal(one(session, "SELECT 5"), "5");
        }
      }
      try (Statement statement = session.createStatement()) {
        Thread other = new Thread(() -> {
          for (int round = 0; round < 500; round++) {
            try {
              Thread.sleep(200);
              statement.cancel();
            } catch (Exception ended) {
              return;
            }
          }
        });
        other.start();
        try {
          statement.executeQuery("SELECT SLEEP(60) FROM expected");
          throw new AssertionError("it slept");
        } catch (SQLException cancelled) {
          // By the server (1317), or by the driver's own words for that.
          equal(cancelled.getErrorCode() == 1317 || cancelled.getErrorCode() == 0, true);
        }
        other.interrupt();
        other.join();
      }
      equal(one(session, "SELECT 5"), "5");
      try (Connection other = connect("")) {
        run(other, "KILL " + one(session, "SELECT CONNECTION_ID()"));
      }
      equal(session.isValid(5), false);
    }
  }

  static void reset() throws Exception {
    HikariConfig config = new HikariConfig();
    config.setJdbcUrl(url(WAYS[1]));
    config.setUsername(System.getenv("CLIENT_USER"));
    config.setPassword(System.getenv("CLIENT_PASSWORD"));
    config.setMaximumPoolSize(4);
    try (HikariDataSource pool = new HikariDataSource(config)) {
      // Its pool puts back what was set through JDBC.
      for (int round = 0; round < 20; round++) {
        try (Connection session = pool.getConnection()) {
          equal(session.getAutoCommit() && !session.isReadOnly(), true);
          equal(one(session, "SELECT @@transaction_isolation"), "REPEATABLE-READ");
          equal(one(session, "SELECT DATABASE()"), SCHEMA);
          session.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
          session.setReadOnly(round % 2 == 0);
          session.setAutoCommit(false);
          one(session, "SELECT 1");
        }
      }
      List<Thread> threads = new ArrayList<>();
      List<Throwable> problems = java.util.Collections.synchronizedList(new ArrayList<>());
      try (Connection session = pool.getConnection()) {
        run(session, "DELETE FROM notes");
      }
      for (int number = 0; number < 8; number++) {
        int mine = number;
        threads.add(new Thread(() -> {
          try {
            for (int round = 0; round < 20; round++) {
              try (Connection session = pool.getConnection()) {
                run(session, "INSERT INTO notes (word) VALUES (?)", mine + " " + round);
                equal(one(session, "SELECT COUNT(*) FROM notes WHERE word LIKE ?", mine + " %"), String.valueOf(round + 1));
              }
            }
          } catch (Throwable problem) {
            problems.add(problem);
          }
        }));
      }
      for (Thread thread : threads) {
        thread.start();
      }
      for (Thread thread : threads) {
        thread.join();
      }
      for (Throwable problem : problems) {
        throw new AssertionError(problem);
      }
    }
  }

  static void connects() throws Exception {
    try (Connection session = connect("")) {
      equal(one(session, "SELECT DATABASE()"), SCHEMA);
      equal(one(session, "SELECT 'Grüße 😀'"), "Grüße 😀");
      equal(session.isValid(5), true);
      equal(session.getMetaData().getTables(SCHEMA, null, "types", null).next(), true);
    }
    refused(1045, "28000", () -> DriverManager.getConnection(url(""), System.getenv("CLIENT_USER"), "wrong"));
  }

  static byte[] blob() {
    byte[] blob = new byte[17 << 20];
    for (int at = 0; at < blob.length; at++) {
      blob[at] = (byte) at;
    }
    return blob;
  }

  public static void main(String[] arguments) {
    Map<String, Check> checks = new LinkedHashMap<>();
    checks.put("connect", Client::connects);
    checks.put("text", () -> types(WAYS[0]));
    checks.put("prepared", () -> types(WAYS[1]));
    checks.put("own-writes", Client::ownWrites);
    checks.put("transaction", Client::transaction);
    checks.put("blob", Client::largeObjects);
    checks.put("procedure", Client::procedure);
    checks.put("batch", Client::batch);
    checks.put("local-infile", Client::localInfile);
    checks.put("errors", Client::errors);
    checks.put("cancel", Client::cancel);
    checks.put("reset", Client::reset);
    boolean failed = false;
    for (var check : checks.entrySet()) {
      try {
        check.getValue().run();
        System.out.println("ok " + check.getKey());
      } catch (Exception | AssertionError problem) {
        failed = true;
        problem.printStackTrace();
        System.out.println("FAILED " + check.getKey());
      }
    }
    System.exit(failed ? 1 : 0);
  }
}
