"""SQLAlchemy's ORM over PyMySQL: what it adds to its driver."""

import datetime
import decimal

import common
import sqlalchemy as sa
from common import Missing
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

engine = sa.create_engine(
    sa.URL.create("mysql+pymysql", common.USER, common.PASSWORD, common.HOST, common.PORT, common.SCHEMA),
    connect_args={"ssl": {"check_hostname": False, "verify_mode": "none"}} if common.TLS else {"ssl_disabled": True},
    pool_size=2,
    pool_pre_ping=True,
)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orm_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str] = mapped_column(sa.String(100), unique=True)
    total: Mapped[decimal.Decimal | None] = mapped_column(sa.Numeric(20, 4))
    placed: Mapped[datetime.datetime | None] = mapped_column(sa.dialects.mysql.DATETIME(fsp=6))
    notes: Mapped[dict | None] = mapped_column(sa.JSON(none_as_null=True))
    proof: Mapped[bytes | None]
    version: Mapped[int] = mapped_column()
    lines: Mapped[list["Line"]] = relationship(back_populates="order", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Line(Base):
    __tablename__ = "orm_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(sa.ForeignKey("orm_orders.id"))
    article: Mapped[str] = mapped_column(sa.String(50))
    order: Mapped[Order] = relationship(back_populates="lines")


def none(why):
    def check():
        raise Missing(why)

    return check


def check_connect():
    # Asks information_schema what is there first; the second time there is nothing to do.
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    columns = {column["name"] for column in sa.inspect(engine).get_columns("orm_orders")}
    assert {"customer", "proof"} <= columns, columns


def check_text():
    placed = datetime.datetime(2024, 12, 31, 23, 59, 59, 123456)
    with Session(engine) as session:
        made = Order(customer="Grüße 😀", total=decimal.Decimal("1234567890123456.0001"), placed=placed,
                     notes={"a": [1, None, "ü"]}, proof=b"\x00\xff'\\", lines=[Line(article="a"), Line(article="b")])
        session.add_all([made, Order(customer="empty")])
        session.commit()
        session.expire_all()
        found = session.scalars(
            sa.select(Order).where(Order.customer == "Grüße 😀").options(selectinload(Order.lines))
        ).one()
        assert (found.total, found.placed, found.notes, found.proof) == (
            decimal.Decimal("1234567890123456.0001"), placed, {"a": [1, None, "ü"]}, b"\x00\xff'\\")
        assert sorted(line.article for line in found.lines) == ["a", "b"]
        empty = session.scalars(sa.select(Order).filter_by(customer="empty")).one()
        assert (empty.total, empty.placed, empty.notes, empty.proof) == (None,) * 4


def check_own_writes():
    with Session(engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        for number in range(30):
            order = Order(customer=f"own {number}")
            session.add(order)
            session.commit()
            session.refresh(order)
            order.total = number
            session.commit()
            session.refresh(order)
            assert (order.customer, order.total, order.version) == (f"own {number}", number, 2)


def check_transaction():
    with Session(engine) as session:
        session.add(Order(customer="undone"))
        session.flush()
        session.rollback()
        assert session.scalar(sa.select(sa.func.count()).select_from(Order).filter_by(customer="undone")) == 0
        session.rollback()
        session.add(Order(customer="kept"))
        with session.begin_nested() as here:
            session.add(Order(customer="inner"))
            session.flush()
            here.rollback()
        session.commit()
        names = session.scalars(sa.select(Order.customer).where(Order.customer.in_(["kept", "inner"]))).all()
        assert names == ["kept"], names
        locked = session.scalars(sa.select(Order).filter_by(customer="kept").with_for_update()).one()
        session.delete(locked)
        session.commit()


def check_batch():
    with Session(engine) as session:
        session.execute(sa.insert(Order), [{"customer": f"batch {number}", "version": 1} for number in range(1000)])
        session.commit()
        found = session.scalars(sa.select(Order).where(Order.customer.like("batch %")).execution_options(yield_per=100))
        assert sum(1 for _ in found) == 1000


def check_errors():
    with Session(engine) as session:
        for _ in range(2):
            session.add(Order(customer="batch 1"))
            try:
                session.commit()
                raise AssertionError("written twice")
            except sa.exc.IntegrityError as error:
                assert error.orig.args[0] == 1062, error
            session.rollback()


def check_reset():
    for _ in range(4):
        with engine.connect() as connection:
            # The pool rolls back what was left open.
            assert connection.scalar(sa.text("SELECT COUNT(*) FROM notes WHERE word = 'left'")) == 0
            connection.execute(sa.text("INSERT INTO notes (word) VALUES ('left')"))


common.report({
    "connect": check_connect,
    "text": check_text,
    "prepared": none("the driver prepares no statements"),
    "own-writes": check_own_writes,
    "transaction": check_transaction,
    "blob": none("its driver's"),
    "procedure": none("its driver's"),
    "batch": check_batch,
    "local-infile": none("its driver's"),
    "errors": check_errors,
    "cancel": none("its driver's"),
    "reset": check_reset,
})
