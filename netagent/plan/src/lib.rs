//! Services, endpoints, pods and nodes to links, routes and map entries; IPAM; pure.
