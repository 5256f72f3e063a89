"""The documents feed of the bench: documents that are edited as users would."""

from typing import Final

from bench.database import IDLE_TICK_SECONDS, Database, Script
from bench.report import Report

_FILES: Final = 2_000
_WORKSPACES: Final = 20
# Ids follow from numbers, so that pgbench can name them.
_MAKE: Final = f"""
    INSERT INTO documents.workspaces (id, name)
    SELECT md5('workspace-' || n)::uuid, 'workspace ' || n FROM generate_series(1, {_WORKSPACES}) n;
    INSERT INTO documents.files (id, workspace_id, title, metadata)
    SELECT md5('file-' || n)::uuid, md5('workspace-' || 1 + n % {_WORKSPACES})::uuid, 'Contract ' || n,
           json_build_object('language', 'en', 'pages', n % 40)
    FROM generate_series(1, {_FILES}) n;
    INSERT INTO documents.file_versions (id, file_id, version, byte_size, content_type)
    SELECT md5('version-' || n)::uuid, md5('file-' || n)::uuid, 1, 1000 * n, 'application/pdf'
    FROM generate_series(1, {_FILES}) n;
"""
_EDITS: Final = (
    Script(
        "rename",
        6,
        "UPDATE documents.files SET title = 'Contract ' || :edit, updated_at = now() "
        "WHERE id = md5('file-' || :number)::uuid;",
    ),
    Script(
        "tag",
        2,
        "INSERT INTO documents.file_tags (file_id, tag) VALUES (md5('file-' || :number)::uuid, 'tag ' || :edit) "
        "ON CONFLICT DO NOTHING;",
    ),
    Script(
        "run",
        2,
        "INSERT INTO documents.runs (input_file_version_id, status, started_at, completed_at, output) "
        "VALUES (md5('version-' || :number)::uuid, 'completed', now(), now(), json_build_object('pages', :edit::int));",
    ),
)
_VARIABLES: Final = f"\\set number random(1, {_FILES})\n\\set edit random(1, 1000000)\n"


def prepare_documents(database: Database, report: Report, events: int) -> int:
    """Make documents and edit them in small transactions; answers how many changes the feed holds."""
    with database.ticks(IDLE_TICK_SECONDS):
        database.fetch(_MAKE)
        scripts = [Script(script.name, script.weight, _VARIABLES + script.text) for script in _EDITS]
        run = database.pgbench(scripts, clients=16, transactions=events)
    stored, ticks = database.stored("documents")
    report.say(f"documents: {stored:,} changes in {ticks} ticks, at {run.per_second:,.0f} transactions a second")
    return stored
