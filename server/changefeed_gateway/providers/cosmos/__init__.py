"""Change feeds of Azure Cosmos DB containers (API for NoSQL)."""
