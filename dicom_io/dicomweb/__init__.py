"""DICOMweb: storing, finding and fetching over HTTP (PS3.18).

Doors: `stow.stow_session`, `wado.web_archive`.
"""
