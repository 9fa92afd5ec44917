"""DICOM on the network: storage as SCP and as SCU, query and retrieve, and what a peer offers.

Doors: `storage_scp.StorageNode`, `storage_scu.storage_association`, `query_retrieve.archive`.
"""
