//! History in Iceberg tables over the versioned map, point-in-time joins and datasets.
