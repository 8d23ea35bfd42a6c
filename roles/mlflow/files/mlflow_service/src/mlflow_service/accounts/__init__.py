"""Who may come in: MLflow's own accounts, the machine's key, and the secrets that both need."""
