"""The daemon: how the DICOM side and the model become a service that runs unattended beside a PACS."""

__version__ = "0.1.0"
