"""DICOMweb: storing, finding and fetching over HTTP (PS3.18).

Doors: `stow.deliver_web`, `wado.web_archive`.
"""
