"""Adapters, and which one a collection is asked with."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "adapter",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=32), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("card", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_adapter_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_adapter")),
        sa.UniqueConstraint("job_id", name=op.f("uq_adapter_job_id")),
    )
    with op.batch_alter_table("collection", schema=None) as batch_op:
        batch_op.add_column(sa.Column("adapter", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("collection", schema=None) as batch_op:
        batch_op.drop_column("adapter")
    op.drop_table("adapter")
