"""DICOM on the network: storage and storage commitment as SCP and as SCU, query and retrieve, and what a peer offers.

Doors: `storage_scp.StorageNode`, `storage_scu.storage_association`, `storage_commitment.request_commitment`,
`query_retrieve.archive`.
"""
