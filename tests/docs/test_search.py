"""``aiotaskq docs --search`` finds the page that a newcomer means, by the words of the field."""

from __future__ import annotations

import pytest

from aiotaskq.cli.docs import found_in, topics, words_of

FIRST = 3
"""How many sections are looked at."""

ENGLISH = {
    "batches": ["batch"],
    "debounce": ["debounce", "throttle"],
    "parameters": ["dataclass", "pydantic models"],
    "task-log": ["task log"],
    "alerts": ["webhook"],
    "command-line": ["health check"],
    "comparison": ["alternatives"],
    "concepts": ["lease", "idempotent handler"],
    "configuration": ["environment variables"],
    "dashboard": ["dashboard", "audit log"],
    "deployment": ["Kubernetes", "Docker", "systemd"],
    "fastapi": ["FastAPI BackgroundTasks"],
    "guarantees": ["at least once"],
    "how-to": ["retry after", "priority queue", "rolling deploy"],
    "limits": ["concurrency limit", "rate limiting", "fair scheduling"],
    "login": ["authentication"],
    "middleware": ["middleware"],
    "schema": ["database schema"],
    "observability": ["Prometheus", "tracing"],
    "operations-api": ["server-sent events", "REST API"],
    "quickstart": ["background job"],
    "schedules": ["periodic task", "cron", "daylight saving", "misfire", "holidays"],
    "steps": ["human in the loop", "durable execution"],
    "stores": ["encryption", "compression", "Redis sentinel", "retention"],
    "tasks": [
        "unique jobs",
        "deduplication",
        "delayed task",
        "timeout",
        "cancel",
        "dead letter queue",
    ],
    "testing": ["unit tests"],
    "transactions": ["exactly once", "transactional outbox"],
    "workers": ["graceful shutdown", "worker"],
    "workflows": ["chord", "fan out", "DAG"],
}
CHINESE = {
    "batches": ["批处理"],
    "debounce": ["防抖", "节流"],
    "parameters": ["注解"],
    "task-log": ["任务日志"],
    "command-line": ["健康检查"],
    "comparison": ["替代品"],
    "concepts": ["租约", "幂等"],
    "configuration": ["环境变量"],
    "dashboard": ["管理后台", "审计日志"],
    "deployment": ["Kubernetes", "Docker"],
    "guarantees": ["至少一次"],
    "how-to": ["优先级队列", "滚动部署"],
    "limits": ["并发限制", "限流"],
    "login": ["身份认证"],
    "middleware": ["中间件"],
    "schema": ["表结构"],
    "observability": ["链路追踪", "监控"],
    "quickstart": ["后台任务"],
    "schedules": ["定时任务", "周期任务", "cron", "夏令时", "节假日"],
    "steps": ["人工审批", "持久执行"],
    "stores": ["加密", "压缩", "哨兵", "保留期限"],
    "tasks": ["去重", "唯一任务", "延迟任务", "超时", "取消任务", "死信队列", "重试"],
    "testing": ["单元测试"],
    "transactions": ["恰好一次", "发件箱"],
    "workers": ["优雅停机", "并发数"],
    "workflows": ["扇出", "工作流", "依赖关系", "回调"],
}


def queries(pages: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(query, page) for page, words in pages.items() for query in words]


@pytest.mark.parametrize(
    ("locale", "query", "page"),
    [("en_US.UTF-8", *each) for each in queries(ENGLISH)] + [("zh_CN.UTF-8", *each) for each in queries(CHINESE)],
)
def test_a_word_of_the_field_leads_to_its_page(
    locale: str, query: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    assert page in [section.topic for section in found_in(topics(), words_of(query))[:FIRST]]
