"""See `mlflow_service.backup`."""

import sys

from mlflow_service.backup.command import main

sys.exit(main())
