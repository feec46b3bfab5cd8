"""Amazon Bedrock: Converse, and batch inference over S3."""
