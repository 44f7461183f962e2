//! Fuzz targets: thin entry points over the pure cores, also replayed as ordinary tests.
