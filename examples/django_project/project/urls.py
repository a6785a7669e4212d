"""Which view answers which address."""

from django.urls import path
from visits import views

urlpatterns = [
    path("visits", views.count),
    path("visits/<str:page>", views.visit),
    path("health/ready", views.ready),
]
