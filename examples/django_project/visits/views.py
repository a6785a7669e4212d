"""Views. None of them says to which server a statement goes."""

from django.db import connections
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from hasql import NotAvailableError
from hasql.contrib.django.base import DatabaseWrapper
from visits.models import Visit


@csrf_exempt
@require_POST
def visit(_: HttpRequest, page: str) -> HttpResponse:
    """Write: this goes to the master."""
    Visit.objects.create(page=page)
    return HttpResponse(status=204)


@require_GET
def count(_: HttpRequest) -> HttpResponse:
    """Read: this goes to a replica, or to the master if the user has just written."""
    return JsonResponse({"visits": Visit.objects.count()})


@require_GET
def ready(_: HttpRequest) -> HttpResponse:
    """Say whether there is a master, without taking a connection."""
    wrapper = connections["default"]
    assert isinstance(wrapper, DatabaseWrapper)
    try:
        wrapper.manager.ready(masters_count=1, replicas_count=0, timeout=1)
    except NotAvailableError:
        return HttpResponse("no master", status=503)
    return HttpResponse("ready")
