"""Runs written straight into a stopped server's tables: ``python3 fill.py DATABASE EXPERIMENT FIRST LAST``.

DATABASE is the path of a SQLite file, or the name of a PostgreSQL database on this machine; then
this runs as its superuser. The statements are the same for both. Run number n has five metrics,
five parameters, and two tags, and started n seconds after the first. Prints the number of runs
written. Copied into the machine, so standard library only.
"""

import json
import sqlite3
import subprocess
import sys
from hashlib import md5

EACH = "number (n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM number WHERE n < {last})"
FIVE = "five (k) AS (SELECT 0 UNION ALL SELECT k + 1 FROM five WHERE k < 4)"
ID = "md5('{experiment}-' || n)"  # 32 digits in no order, like MLflow's own
TIME = "1700000000000 + n * 1000"  # milliseconds since 1970
VALUE = "(n * (7919 + k) % 1000) / 1000.0"  # from 0 to 0.999, each of them as often
STATEMENTS = [
    f"""WITH RECURSIVE {EACH}
    INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
        end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
    SELECT {ID}, 'run-' || n, 'UNKNOWN', '', '', 'bench', 'FINISHED', {TIME}, {TIME} + 900, '', 'active',
        'mlflow-artifacts:/{{experiment}}/' || {ID} || '/artifacts', {{experiment}} FROM number""",
    f"""WITH RECURSIVE {EACH}, {FIVE}
    INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)
    SELECT 'metric-' || k, {VALUE}, {TIME}, {ID}, 0, false FROM number CROSS JOIN five""",
    f"""WITH RECURSIVE {EACH}, {FIVE}
    INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan)
    SELECT 'metric-' || k, {VALUE}, {TIME}, {ID}, 0, false FROM number CROSS JOIN five""",
    f"""WITH RECURSIVE {EACH}, {FIVE}
    INSERT INTO params (key, value, run_uuid) SELECT 'param-' || k, '' || n * k, {ID} FROM number CROSS JOIN five""",
    f"""WITH RECURSIVE {EACH}
    INSERT INTO tags (key, value, run_uuid) SELECT 'mlflow.runName', 'run-' || n, {ID} FROM number""",
    f"""WITH RECURSIVE {EACH}
    INSERT INTO tags (key, value, run_uuid) SELECT 'stage', 'bench', {ID} FROM number""",
]


def fill_sqlite(path: str, statements: list[str]) -> None:
    connection = sqlite3.connect(path)
    connection.create_function("md5", 1, lambda text: md5(text.encode()).hexdigest(), deterministic=True)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def fill_postgresql(database: str, statements: list[str]) -> None:
    """In one transaction. Then what autovacuum would do some minutes later, so that it does not fall into the bench."""
    psql = ["psql", "--no-psqlrc", "--quiet", f"--dbname={database}", "--set=ON_ERROR_STOP=1"]
    subprocess.run([*psql, "--single-transaction"], input=";\n".join(statements) + ";\n", text=True, check=True)
    subprocess.run([*psql, "--command=VACUUM (ANALYZE)", "--command=CHECKPOINT"], check=True)


if __name__ == "__main__":
    database, experiment, first, last = sys.argv[1], *map(int, sys.argv[2:])
    statements = [statement.format(experiment=experiment, first=first, last=last) for statement in STATEMENTS]
    (fill_sqlite if database.startswith("/") else fill_postgresql)(database, statements)
    print(json.dumps(last - first + 1))
