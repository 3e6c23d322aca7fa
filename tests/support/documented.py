"""The documented tables of the older system, word for word."""

LEGACY = """
CREATE TABLE scheduler_task (
    task_id VARCHAR(36) PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    task_type VARCHAR(100) NOT NULL,
    params TEXT,
    schedule_type VARCHAR(20) NOT NULL,
    interval_seconds INT,
    cron_expression VARCHAR(100),
    execute_at BIGINT,
    last_run_at BIGINT,
    next_run_at BIGINT,
    run_count INT DEFAULT 0,
    max_runs INT DEFAULT 0,
    enabled BOOLEAN DEFAULT TRUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    description TEXT
);
CREATE TABLE task_queue (
    task_id VARCHAR(36) PRIMARY KEY,
    task_type VARCHAR(100) NOT NULL,
    params TEXT,
    status VARCHAR(20) DEFAULT 'pending',
    priority INT DEFAULT 0,
    retry_count INT DEFAULT 0,
    max_retries INT DEFAULT 3,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    completed_at BIGINT,
    error_message TEXT,
    scheduler_task_id VARCHAR(36)
);
"""
