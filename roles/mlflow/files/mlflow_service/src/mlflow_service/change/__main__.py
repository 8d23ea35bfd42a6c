"""See `mlflow_service.change`."""

import sys

from mlflow_service.change.command import main

sys.exit(main())
