"""MLflow's store for ``gs://``, for a server that every artifact goes through.

MLflow tells clients of any ``gs://`` store to send files of 500 MiB and more to Google themselves, by addresses
that the server signs. A virtual machine's or a user's credentials can't sign, and a client may not reach Google.
MLflow finds this class by the entry point ``gs`` of the group ``mlflow.artifact_repository``.
"""

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.gcs_artifact_repo import GCSArtifactRepository


class GoogleArtifacts(ArtifactRepository):
    """What MLflow's own class does, without its offer of multipart uploads."""

    def __init__(self, artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None) -> None:
        super().__init__(artifact_uri, tracking_uri, registry_uri)
        self.store = GCSArtifactRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)

    def log_artifact(self, local_file, artifact_path=None):
        self.store.log_artifact(local_file, artifact_path)

    def log_artifacts(self, local_dir, artifact_path=None):
        self.store.log_artifacts(local_dir, artifact_path)

    def list_artifacts(self, path=None):
        return self.store.list_artifacts(path)

    def delete_artifacts(self, artifact_path=None):
        self.store.delete_artifacts(artifact_path)

    def _download_file(self, remote_file_path, local_path):
        self.store._download_file(remote_file_path, local_path)
