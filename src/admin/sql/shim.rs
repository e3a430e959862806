//! Writes tables and errors as `opensrv-mysql` wants them. Decides nothing.

use std::io;
use std::sync::Arc;

use opensrv_mysql::{
    AsyncMysqlShim, Column, ColumnFlags, ColumnType, ErrorKind, InitWriter, OkResponse, ParamParser,
    QueryResultWriter, StatementMetaWriter,
};
use tokio::io::AsyncWrite;

use crate::admin::Source;
use crate::admin::command::{self, Command};
use crate::admin::tables::{self, Cell, Kind, Table};
use crate::telemetry::clients::Signals;

/// A query that begins with this is answered with the rest of it as an error.
pub(super) const REFUSED: &str = "\u{1}refused: ";

pub(super) struct Shim(Arc<Source>);

impl Shim {
    pub(super) fn new(source: Arc<Source>) -> Self {
        Self(source)
    }
}

#[async_trait::async_trait]
impl<W: AsyncWrite + Send + Unpin> AsyncMysqlShim<W> for Shim {
    type Error = io::Error;

    /// Unreachable: [`super::bridge`] lets no prepared statements through.
    async fn on_prepare<'a>(&'a mut self, _: &'a str, info: StatementMetaWriter<'a, W>) -> io::Result<()> {
        info.error(ErrorKind::ER_UNSUPPORTED_PS, NO_PREPARED).await
    }

    /// Unreachable, as above.
    async fn on_execute<'a>(
        &'a mut self,
        _: u32,
        _: ParamParser<'a>,
        results: QueryResultWriter<'a, W>,
    ) -> io::Result<()> {
        results.error(ErrorKind::ER_UNSUPPORTED_PS, NO_PREPARED).await
    }

    async fn on_close<'a>(&'a mut self, _: u32)
    where
        W: 'async_trait,
    {
    }

    /// There are no schemas, so any will do.
    async fn on_init<'a>(&'a mut self, _: &'a str, writer: InitWriter<'a, W>) -> io::Result<()> {
        writer.ok().await
    }

    async fn on_query<'a>(&'a mut self, query: &'a str, results: QueryResultWriter<'a, W>) -> io::Result<()> {
        if let Some(why) = query.strip_prefix(REFUSED) {
            return results.error(ErrorKind::ER_UNKNOWN_COM_ERROR, why.as_bytes()).await;
        }
        let command = match command::parse(query) {
            Ok(command) => command,
            Err(told) => return results.error(ErrorKind::ER_PARSE_ERROR, told.as_bytes()).await,
        };
        match &command {
            Command::Nothing => results.completed(OkResponse::default()).await,
            Command::Variables(variables) => {
                let columns: Vec<Column> =
                    variables.iter().map(|(name, _)| describe(name, Kind::Text)).collect();
                let mut rows = results.start(&columns).await?;
                rows.write_row(variables.iter().map(|(_, value)| value.as_deref())).await?;
                rows.finish().await
            }
            Command::Kill { id, whole_connection } => {
                let signal =
                    if *whole_connection { Signals::KILL_CONNECTION } else { Signals::KILL_STATEMENT };
                if self.0.clients.signal(*id, signal) {
                    tracing::info!(id, whole_connection, "client killed from the admin port");
                    results.completed(OkResponse::default()).await
                } else {
                    let told = format!("Unknown thread id: {id}; SHOW CLIENTS has them");
                    results.error(ErrorKind::ER_NO_SUCH_THREAD, told.as_bytes()).await
                }
            }
            show => match tables::show(show, &self.0) {
                Some(table) => write(&table, results).await,
                None => results.completed(OkResponse::default()).await,
            },
        }
    }
}

async fn write<W: AsyncWrite + Send + Unpin>(
    table: &Table,
    results: QueryResultWriter<'_, W>,
) -> io::Result<()> {
    let columns: Vec<Column> = table.columns.iter().map(|(name, kind)| describe(name, *kind)).collect();
    let mut rows = results.start(&columns).await?;
    for row in &table.rows {
        for cell in row {
            match cell {
                Cell::Text(text) => rows.write_col(text.as_str())?,
                Cell::Number(number) => rows.write_col(*number)?,
                Cell::Null => rows.write_col(None::<u64>)?,
            }
        }
        rows.end_row().await?;
    }
    rows.finish().await
}

fn describe(name: &str, kind: Kind) -> Column {
    Column {
        table: String::new(),
        column: name.to_owned(),
        coltype: match kind {
            Kind::Text => ColumnType::MYSQL_TYPE_VAR_STRING,
            Kind::Number => ColumnType::MYSQL_TYPE_LONGLONG,
        },
        colflags: match kind {
            Kind::Text => ColumnFlags::empty(),
            Kind::Number => ColumnFlags::UNSIGNED_FLAG,
        },
    }
}

const NO_PREPARED: &[u8] = b"the admin port takes no prepared statements";
