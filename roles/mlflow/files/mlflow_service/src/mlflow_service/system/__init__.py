"""What every floor stands on: acting as the service, files, locks, logs, settings, systemd."""
