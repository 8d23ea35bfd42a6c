"""MLflow's server: how it is started, its application, its workers' health and connections."""
